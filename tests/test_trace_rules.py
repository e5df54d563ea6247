"""Each rule of the check on the shortest sequence that keeps it and the shortest that breaks it.

The sequences are written down from the kernel's source, not from a trace.
"""

from itertools import count

import pytest

from sim.kernel.config import Settings, boot
from sim.trace.following.follow import Follower
from sim.trace.following.known import Step
from sim.trace.reading.events import CODE

ZEN4 = boot(Settings(cpu="zen4", kernel="v6.18", strategy="xstate-guest"))
V66 = boot(Settings(cpu="zen4", kernel="v6.6", strategy="no-cet"))
T, G = 1 << 63 | 0xAE7, 1 << 63 | 0x1AE7
POINTER = {"A": 0xA000, "B": 0xB000, "C": 0xC000}
TID = {"idle": 0, "A": 1, "B": 2, "C": 3, "K": 9}
SEEN = 0x207


class Story:
    """A trace of tasks A, B and C, with user state, and of the kernel thread K; time passes by itself."""

    def __init__(self):
        self.steps = []
        self.time = count(1_000_000, 1_000_000)
        self.cpus = {0: "idle", 1: "idle"}

    def event(self, cpu, who, name, *values):
        step = Step(len(self.steps) + 1, next(self.time), cpu, TID.get(who, who), str(who), CODE[name], values)
        self.steps.append(step)
        return self

    def switch(self, to, cpu=0, state="S"):
        prev = self.cpus[cpu]
        self.cpus[cpu] = to
        return self.event(cpu, prev, "sched_switch", TID[prev], 120, ord(state), to, TID.get(to, to), 120)

    def fpu(self, name, who, cpu=0, load=1, xfeatures=SEEN, xcomp=T, pointer=None):
        return self.event(cpu, who, f"x86_fpu_{name}", pointer or POINTER[who], load, xfeatures, xcomp)

    def saves(self, who, cpu=0, **fields):
        return self.fpu("regs_deactivated", who, cpu, **fields)

    def restores(self, who, cpu=0, **fields):
        return self.fpu("regs_activated", who, cpu, **fields)

    def runs(self, who, cpu=0):
        """The last task, with user state, is saved; ``who`` comes and is restored."""
        prev = self.cpus[cpu]
        self.switch(who, cpu)
        if prev in POINTER:
            self.saves(prev, cpu)
        return self.restores(who, cpu)

    def loads(self, who, cpu=0, load=0, **fields):
        return self.restores(who, cpu, load=load, xcomp=G, **fields).event(cpu, who, "kvm_fpu", "load")

    def unloads(self, who, cpu=0, load=0, **fields):
        return self.restores(who, cpu, load=load, **fields).event(cpu, who, "kvm_fpu", "unload")

    def verdict(self, config=ZEN4):
        follower = Follower(config)
        for step in self.steps:
            follower.follow(step)
        follower.finish()
        return follower.verdict


def known():
    """A, B, C and K have been seen on both CPUs; A runs on CPU 0, C on CPU 1."""
    story = Story().runs("B").switch("K").saves("B").runs("A").runs("B", 1).runs("C", 1)
    return story


def settled(story):
    """Whatever is held is judged: every CPU goes on."""
    return story.event(0, story.cpus[0], "sched_process_exit", 77).event(1, story.cpus[1], "sched_process_exit", 78)


def rules(story, config=ZEN4):
    return [found.rule for found in settled(story).verdict(config).contradictions]


def inferred(story, config=ZEN4):
    verdict = settled(story).verdict(config)
    assert not verdict.contradictions, verdict.contradictions
    return {kind: number for kind, number in verdict.inferred.items() if number}


def test_a_kernel_thread_in_between_leaves_the_registers_and_nothing_is_restored():
    assert inferred(known().switch("K").saves("A").switch("A").switch("B").saves("A").restores("B")) == {}


def test_a_restore_that_would_have_been_skipped_is_kernel_fpu_begin():
    assert inferred(known().switch("K").saves("A").switch("A").restores("A")) == {"kernel_fpu_begin": 1}


def test_a_restore_without_a_switch_is_kernel_fpu_begin():
    assert inferred(known().restores("A", xfeatures=0x203)) == {"kernel_fpu_begin": 1}


def test_another_user_task_in_between_takes_the_registers():
    assert inferred(known().runs("B").runs("A")) == {}
    assert rules(known().runs("B").switch("A").saves("B").switch("B").saves("A")) == ["restored-before"]


def test_a_user_task_that_never_reached_user_mode_takes_nothing():
    assert inferred(known().switch("B").saves("A").switch("A").switch("K").saves("A")) == {}


def test_a_task_that_was_elsewhere_must_be_restored_even_if_it_is_the_owner_here():
    def elsewhere():
        story = known().switch("K").saves("A").switch("A", 1).saves("C", 1).restores("A", 1)
        return story.switch("B", 1).saves("A", 1).restores("B", 1).switch("A")

    assert inferred(elsewhere().restores("A")) == {}
    assert rules(elsewhere().switch("K").saves("A")) == ["restored-before"]


def test_a_missing_save_is_assumed_kernel_fpu_begin_and_the_next_restore_rests_on_it():
    story = known().switch("K").switch("A").restores("A")
    assert inferred(story) == {"kernel_fpu_begin": 1}
    assert settled(known().switch("K")).verdict().assumed["kernel_fpu_begin elsewhere"] == 1
    assert rules(known().switch("K").switch("A").switch("K").saves("A")) == ["restored-before"]


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"load": 0}, "load"),
        ({"xcomp": G}, "fpstate"),
        ({"xcomp": 1 << 63 | 0x2E7}, "fpstate"),
        ({"xfeatures": 0x1207}, "xfeatures"),
        ({"pointer": 0xA100}, "pointer"),
    ],
)
def test_each_field_of_a_save_is_checked(fields, rule):
    assert rules(known().switch("K").saves("A", **fields)) == [rule]


@pytest.mark.parametrize(
    ("fields", "rule"),
    [({"xfeatures": 0x203}, "xfeatures"), ({"xcomp": G}, "fpstate"), ({"pointer": 0xC000}, "pointer")],
)
def test_each_field_of_a_restore_is_checked(fields, rule):
    assert rules(known().switch("B").saves("A").restores("B", **fields)) == [rule]


def test_before_v6_16_a_save_shows_load_0():
    story = (
        Story().switch("A").restores("A").switch("B").saves("A", load=0).restores("B").switch("A").saves("B", load=0)
    )
    assert rules(story, V66) == []
    assert rules(Story().switch("A").restores("A").switch("B").saves("A", load=1), V66) == ["load"]


def test_a_save_without_a_switch_is_a_contradiction():
    assert rules(known().saves("A")) == ["save"]


def test_events_come_from_the_task_that_runs():
    assert rules(known().restores("B")) == ["current", "current"]  # and A again
    assert rules(known().restores("C")) == ["one-cpu"]
    story = known()
    story.cpus[0] = "B"  # as if a switch from A to B were missing
    assert rules(story.switch("K").saves("B")) == ["current"]


def test_a_task_without_events_of_its_own_is_outside_the_recording():
    """D runs behind A, and next is A: D may have taken the registers, or not."""
    story = known().event(0, "A", "sched_switch", 1, 120, ord("S"), "D", 50, 120).saves("A")
    story.cpus[0] = "A"
    assert inferred(story.restores("A")) == {"outside the recording": 1}
    story = known().event(0, "A", "sched_switch", 1, 120, ord("S"), "D", 50, 120).saves("A")
    story.cpus[0] = "A"
    assert inferred(story.switch("K").saves("A")) == {}
    story.cpus[0] = 50
    assert rules(story.event(0, 50, "sched_process_exit", 50)) == ["current", "current"]


def test_swaps_save_unless_the_flag_is_set_and_always_restore():
    assert inferred(known().loads("A").unloads("A")) == {}
    preempted = known().loads("A").switch("B").saves("A", xcomp=G).restores("B").switch("A").saves("B")
    assert inferred(preempted.unloads("A", load=1)) == {}
    preempted = known().loads("A").switch("B").saves("A", xcomp=G).restores("B").switch("A").saves("B")
    assert rules(preempted.unloads("A", load=0)) == ["restored-before"]
    assert inferred(known().loads("A").unloads("A", load=1)) == {"kernel_fpu_begin": 1}


def test_loads_and_unloads_alternate():
    assert rules(known().loads("A").loads("A")) == ["swap"]
    assert rules(known().unloads("A")) == ["swap"]
    assert rules(settled(known()).event(0, "A", "kvm_fpu", "load")) == ["swap"]
    assert rules(known().loads("A").event(0, "A", "kvm_userspace_exit", "KVM_EXIT_IO")) == ["swap"]


def test_a_vcpu_may_be_preempted_between_its_swap_and_kvm_fpu():
    late = known().restores("A", load=0, xcomp=G).switch("K").saves("A", xcomp=G).switch("A")
    assert inferred(late.event(0, "A", "kvm_fpu", "load").switch("K").saves("A", xcomp=G)) == {}
    missing = known().restores("A", load=0, xcomp=G).switch("K").saves("A", xcomp=G).switch("A")
    assert "swap" in rules(missing.restores("A", xcomp=G))


def test_a_signal_marks_the_registers_twice_and_never_inside_kvm_run():
    assert inferred(known().restores("A", load=0).restores("A", load=0)) == {"signal": 2}
    assert rules(known().loads("A").restores("A", load=0, xcomp=G)) == ["signal"]
    assert rules(known().runs("B").switch("A").saves("B").restores("A", load=0)) == ["restored-before"]


def test_a_guest_is_entered_with_its_own_registers():
    assert inferred(known().loads("A").event(0, "A", "kvm_entry", 0).event(0, "A", "kvm_exit", "HLT")) == {}
    assert rules(known().event(0, "A", "kvm_entry", 0)) == ["guest-entry"]
    story = known().loads("A").switch("B").saves("A", xcomp=G).restores("B").switch("A").saves("B")
    assert rules(story.event(0, "A", "kvm_entry", 0)) == ["restored-before"]


def test_fork_saves_registers_that_are_the_parent_s():
    assert inferred(known().fpu("copy_dst", "A", load=0, pointer=0xD000)) == {}
    assert rules(known().runs("B").switch("A").saves("B").fpu("copy_dst", "A", load=0, pointer=0xD000)) == [
        "restored-before"
    ]


def test_a_child_is_restored_before_it_calls_execve():
    def forks():
        story = known().fpu("copy_dst", "A", load=0, pointer=0xD000)
        story.event(0, "A", "sched_process_fork", 1, "D", 50)
        story.event(0, "A", "sched_switch", 1, 120, ord("S"), "D", 50, 120).saves("A")
        story.cpus[0] = 50
        return story

    child = forks().event(0, 50, "x86_fpu_regs_activated", 0xD000, 1, SEEN, T)
    child.event(0, 50, "sched_process_exec", 50, 50)
    assert inferred(child.event(0, 50, "x86_fpu_regs_activated", 0xD000, 1, 0, T)) == {}
    assert rules(forks().event(0, 50, "sched_process_exec", 50, 50)) == ["restored-before"]


def test_a_stint_without_restore_and_save_is_counted_as_one_that_stayed_in_the_kernel():
    story = known().switch("K").saves("A").switch("A").switch("K")
    assert inferred(story) == {}
    assert settled(story).verdict().assumed["switched out before user mode"] == 1


def test_exec_makes_everything_initial_and_a_switch_during_it_saves_nothing():
    story = known().switch("K").switch("A").event(0, "A", "sched_process_exec", 1, 1)
    assert inferred(story.restores("A", xfeatures=0)) == {}
    assert story.verdict().assumed["kernel_fpu_begin elsewhere"] == 0
    assert rules(known().event(0, "A", "sched_process_exec", 1, 1).restores("A")) == ["xfeatures"]


def test_a_dying_task_is_dropped_once_and_saved_in_its_last_switch():
    story = known().event(0, "A", "sched_process_exit", 1)
    story.saves("A", load=0).fpu("dropped", "A", load=0).switch("B", state="Z").saves("A").restores("B")
    assert inferred(story) == {}
    assert rules(known().fpu("dropped", "A", load=0)) == ["drop"]


def test_every_event_is_explained_inferred_or_charged_to_a_contradiction():
    story = settled(known().restores("B").saves("A").loads("A").loads("A").restores("A", load=0))
    verdict = story.verdict()
    left = verdict.events - verdict.explained.total() - verdict.inferred.total()
    assert 0 < left <= verdict.found
