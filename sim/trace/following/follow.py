"""Follows a trace: is each x86_fpu event one that the kernel model passes, too?

Some events can only be judged by what comes next on their CPU: whether a switch is followed by the save of the task
that left (the save is inside __switch_to()), whether x86_fpu_regs_activated belongs to a swap (kvm_fpu follows),
whether x86_fpu_regs_deactivated belongs to an exit (x86_fpu_dropped follows).  Such an event is held until then.
"""

from collections.abc import Callable
from typing import Final

from sim.trace.following import guests, lives, restoring, signals, silent, switching
from sim.trace.following.known import Known, Place, Step
from sim.trace.reading import events
from sim.trace.reading.events import ACTIVATED, EVENTS, IS_FPU, IS_TOLD, SWITCH


class Follower(Known):
    """Leads ``replicas`` along a trace and fills ``verdict``."""

    def follow(self, step: Step) -> None:
        """The next event of the trace, in the order of the trace."""
        handler = HANDLERS[step.event]
        if handler is None:
            return
        self.now_ns = step.time_ns
        place = self.places.get(step.cpu)
        if place is None:
            place = self.places[step.cpu] = Place(step.cpu)
            self.model.cpu(step.cpu)
        if IS_FPU[step.event]:
            self.verdict.events += 1
        if place.held is not None and self.settle(place, step):
            return
        self.clock.ns = step.time_ns
        handler(self, place, step)
        place.fresh = False

    def finish(self) -> None:
        """The trace has ended: what is held is judged as far as it can be without what would have come next."""
        for place in self.places.values():
            held = place.held
            if held is not None and (held.event == SWITCH or (held.event == ACTIVATED and self.tells_guest)):
                self.now_ns = held.time_ns
                self.settle(place, None)
            elif held is not None and IS_FPU[held.event]:
                self.explain(place, held, "at a gap")
            place.held = None

    def gap(self) -> None:
        """Events are missing here: nothing that was known still holds.  One on a single CPU touches every thread."""
        for place in self.places.values():
            if place.held is not None and IS_FPU[place.held.event]:
                self.explain(place, place.held, "at a gap")
            place.held = place.current = place.departed = place.late_save = None
            place.owner_known = place.doubt = False
            place.fresh = True
            for replica in self.replicas:
                replica.owns(place.number, None)
        for thread in list(self.threads.values()):
            self.forget(thread)

    def settle(self, place: Place, next_step: Step | None) -> bool:
        """Judges the held event by the next one of its CPU; True if that settles that one, too."""
        held, place.held = place.held, None
        assert held is not None
        self.clock.ns = held.time_ns
        if held.event == SWITCH:
            return switching.switched(self, place, held, next_step)
        if held.event == ACTIVATED:
            return restoring.restored(self, place, held, next_step)
        return lives.dropped(self, place, held, next_step)


HANDLERS: Final[list[Callable[[Known, Place, Step], None] | None]] = [
    {
        events.ACTIVATED: restoring.on_activated,
        events.DEACTIVATED: lives.on_deactivated,
        events.DROPPED: lives.on_dropped,
        events.COPY_DST: lives.on_copy_dst,
        events.COPY_SRC: guests.on_memory_read,
        events.BEFORE_SAVE: guests.on_memory_read,
        events.AFTER_SAVE: guests.on_memory_read,
        events.SWITCH: switching.on_switch,
        events.FORK: lives.on_fork,
        events.EXEC: lives.on_exec,
        events.EXIT: lives.on_exit,
        events.KVM_FPU: restoring.on_kvm_fpu,
        events.KVM_ENTRY: guests.on_kvm_entry,
        events.KVM_EXIT: guests.on_kvm_exit,
        events.USERSPACE_EXIT: guests.on_userspace_exit,
        events.SIGNAL_DELIVER: signals.on_signal_deliver,
        events.SIGRETURN: signals.on_sigreturn,
    }.get(code, guests.on_unknown_fpu if IS_FPU[code] else silent.on_told if IS_TOLD[code] else None)
    for code in range(len(EVENTS))
]
"""By event code; None for events that say nothing about registers."""
