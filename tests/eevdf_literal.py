"""fair.c's own steps in its own order, slowly: what the queue of sim/host is compared with.

It keeps what the other leaves out: min_vruntime, a current that stays current while it is delayed, on_rq of a current
that has blocked, and sums made anew for each question.
"""

from fractions import Fraction
from math import floor

NICE_0 = 1 << 32


class Se:
    """struct sched_entity."""

    def __init__(self, name: int, weight: int, custom_slice: int) -> None:
        self.name, self.weight, self.custom_slice = name, weight, custom_slice
        self.slice = custom_slice
        self.vruntime = self.deadline = self.vprot = self.vlag = self.exec_start = 0
        self.on_rq = self.sched_delayed = self.rel_deadline = False

    def calc_delta_fair(self, delta: int) -> int:
        return delta * (NICE_0 * 1024 // self.weight)


class CfsRq:
    """struct cfs_rq, and TIF_NEED_RESCHED."""

    def __init__(self, base_slice: int, tick: int) -> None:
        self.base_slice, self.tick_period = base_slice, tick
        self.tree: list[Se] = []
        self.curr: Se | None = None
        self.min_vruntime = 0
        self.resched = False

    def queued(self) -> list[Se]:
        return self.tree + ([self.curr] if self.curr and self.curr.on_rq else [])

    def average(self) -> Fraction:
        load = sum(se.weight for se in self.queued())
        keys = sum(se.weight * (se.vruntime - self.min_vruntime) for se in self.queued())
        return self.min_vruntime + (Fraction(keys, load) if load else Fraction(0))

    def entity_eligible(self, se: Se) -> bool:
        return se.vruntime <= self.average()

    def update_min_vruntime(self) -> None:
        self.min_vruntime = max(self.min_vruntime, min(se.vruntime for se in self.queued()))

    def update_curr(self, now: int) -> None:
        curr = self.curr
        if curr is None or not curr.on_rq or now <= curr.exec_start:
            return
        curr.vruntime += curr.calc_delta_fair(now - curr.exec_start)
        curr.exec_start = now
        resched = curr.vruntime >= curr.deadline
        if resched:
            curr.slice = curr.custom_slice or self.base_slice
            curr.deadline = curr.vruntime + curr.calc_delta_fair(curr.slice)
        self.update_min_vruntime()
        if len(self.queued()) > 1 and (resched or curr.vprot <= curr.vruntime):
            self.resched = True

    def update_entity_lag(self, se: Se) -> None:
        limit = se.calc_delta_fair(max(2 * se.slice, self.tick_period))
        se.vlag = min(max(floor(self.average()) - se.vruntime, -limit), limit)

    def place_entity(self, se: Se, initial: bool) -> None:
        se.slice = se.custom_slice or self.base_slice
        vslice = se.calc_delta_fair(se.slice)
        lag = 0
        if self.queued() and se.vlag:
            load = sum(other.weight for other in self.queued())
            lag = floor(Fraction(se.vlag * (load + se.weight), load))
        se.vruntime = floor(self.average()) - lag
        if se.rel_deadline:
            se.deadline += se.vruntime
            se.rel_deadline = False
            return
        se.deadline = se.vruntime + (vslice // 2 if initial else vslice)

    def enqueue(self, now: int, se: Se, initial: bool = False) -> None:
        if se.sched_delayed:
            self.update_entity_lag(se)
            if se.vlag > 0:
                self.tree.remove(se)
                se.vlag = 0
                self.place_entity(se, False)
                self.tree.append(se)
            se.sched_delayed = False
            return
        self.update_curr(now)
        self.place_entity(se, initial)
        self.tree.append(se)
        se.on_rq = True

    def dequeue(self, now: int, se: Se, sleep: bool, special: bool = False, delayed: bool = False) -> None:
        self.update_curr(now)
        if not delayed and sleep and not special and not self.entity_eligible(se):
            se.sched_delayed = True
            return
        self.update_entity_lag(se)
        if not sleep:
            se.deadline -= se.vruntime
            se.rel_deadline = True
        if se is not self.curr:
            self.tree.remove(se)
        se.on_rq = False
        if self.queued():
            self.update_min_vruntime()
        if delayed:
            se.sched_delayed = False
            se.vlag = min(se.vlag, 0)

    def pick_eevdf(self, protect: bool) -> Se:
        curr = self.curr
        if len(self.queued()) == 1:
            return self.queued()[0]
        if curr and (not curr.on_rq or not self.entity_eligible(curr)):
            curr = None
        if curr and protect and curr.vprot > curr.vruntime:
            return curr
        eligible = [se for se in self.tree if self.entity_eligible(se)]
        best = min(eligible, key=lambda se: se.deadline, default=None)
        if best is None or (curr and curr.deadline < best.deadline):
            assert curr is not None
            return curr
        return best

    def schedule(self, now: int) -> Se | None:
        self.update_curr(now)
        picked = None
        while self.queued():
            picked = self.pick_eevdf(True)
            if not picked.sched_delayed:
                break
            self.dequeue(now, picked, sleep=True, delayed=True)
            picked = None
        self.resched = False
        prev = self.curr
        if picked is prev:
            return picked
        if prev and prev.on_rq:
            self.tree.append(prev)
        self.curr = None
        if picked is None:
            return None
        self.tree.remove(picked)
        self.set_protect_slice(picked)
        picked.exec_start = now
        self.curr = picked
        return picked

    def set_protect_slice(self, picked: Se) -> None:
        shortest = min([picked.slice, *(se.slice for se in self.queued())])
        picked.vprot = picked.deadline
        if shortest != picked.slice:
            picked.vprot = min(picked.vprot, picked.vruntime + picked.calc_delta_fair(shortest))

    def check_preempt_wakeup(self, now: int, se: Se, fork: bool = False) -> bool:
        curr = self.curr
        if curr is None:
            return True
        if self.resched:
            return True
        self.update_curr(now)
        short = se.slice < curr.slice
        if self.pick_eevdf(not short) is se:
            if short and curr.vprot > curr.vruntime:
                curr.vprot = curr.vruntime
            self.resched = True
        elif short:
            shortest = min(other.slice for other in self.queued())
            curr.vprot = min(curr.vprot, curr.vruntime + curr.calc_delta_fair(shortest))
        return self.resched


class CfsRqV73(CfsRq):
    """The same with what v7.3 does otherwise; ``next`` is the buddy."""

    def __init__(self, base_slice: int, tick: int) -> None:
        super().__init__(base_slice, tick)
        self.next: Se | None = None

    def update_entity_lag(self, se: Se) -> None:
        limit = se.calc_delta_fair(max(other.slice for other in self.queued()) + self.tick_period)
        vlag = min(max(floor(self.average()) - se.vruntime, -limit), limit)
        if se.sched_delayed:
            vlag = min(max(vlag, se.vlag), 0)
        se.vlag = vlag

    def enqueue(self, now: int, se: Se, initial: bool = False) -> None:
        self.update_curr(now)
        if not se.sched_delayed:
            super().enqueue(now, se, initial)
            return
        average = floor(self.average())
        self.update_entity_lag(se)
        if average - se.vlag != se.vruntime:
            self.tree.remove(se)
            self.place_entity(se, False)
            self.tree.append(se)
        se.sched_delayed = False

    def dequeue(self, now: int, se: Se, sleep: bool, special: bool = False, delayed: bool = False) -> None:
        if self.next is se:
            self.next = None
        self.update_curr(now)
        self.update_entity_lag(se)
        if not delayed and sleep and not special and not self.entity_eligible(se):
            se.sched_delayed = True
            return
        if not sleep:
            se.deadline -= se.vruntime
            se.rel_deadline = True
        if se is not self.curr:
            self.tree.remove(se)
        se.on_rq = False
        if self.queued():
            self.update_min_vruntime()
        if delayed:
            se.sched_delayed = False

    def pick_eevdf(self, protect: bool) -> Se:
        if len(self.queued()) > 1 and protect and self.next and self.entity_eligible(self.next):
            return self.next
        return super().pick_eevdf(protect)

    def set_protect_slice(self, picked: Se) -> None:
        if self.next is picked:
            self.next = None
        picked.vprot = picked.deadline
        if any(se.slice < picked.slice for se in self.tree):
            behind = floor(
                Fraction(sum(se.weight * se.vruntime for se in self.tree), sum(se.weight for se in self.tree))
            )
            picked.vprot = min(picked.vprot, behind + 1)

    def check_preempt_wakeup(self, now: int, se: Se, fork: bool = False) -> bool:
        curr = self.curr
        if curr is None:
            return True
        self.update_curr(now)
        short = se.slice < curr.slice
        preempt = False
        if short or not fork:
            while (nse := self.pick_eevdf(not short)).sched_delayed:
                self.dequeue(now, nse, sleep=True, delayed=True)
            preempt = nse is se or (short and self.entity_eligible(se))
        if not preempt:
            shortest = min(other.slice for other in self.queued())
            start = min(curr.vruntime, floor(self.average()))
            curr.vprot = min(curr.vprot, start + curr.calc_delta_fair(shortest))
            return self.resched
        if curr.vprot > curr.vruntime:
            curr.vprot = curr.vruntime
        if short and not (self.next and self.next.slice < se.slice):
            self.next = se
        self.resched = True
        return True
