"""Traces with KVM's events alone: round trips, exits and their times."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st
from trace_texts import CASES, run

from sim.trace.exits import exits

# KVM's events alone.


def test_kvm_s_events_alone_tell_of_round_trips_and_exits(capsys):
    status, out, _ = run(capsys, "replay", CASES / "kvm-only-trace.txt", "--exits", "--json")
    document = json.loads(out)
    assert status == 0
    assert (document["round_trips"], document["exits"], document["to_user_space"]) == (1, 2, 1)
    assert (document["vcpus"], document["entries"], document["halts"]) == (1, 3, 0)
    injected, io_exit = document["reasons"]["EXCEPTION_NMI"], document["reasons"]["IO_INSTRUCTION"]
    assert (injected["guest_ns"]["mean"], injected["handler_ns"]["mean"]) == (6000, 12000)
    assert (io_exit["guest_ns"]["mean"], io_exit["handler_ns"], io_exit["outside_ns"]["mean"]) == (14000, None, 36000)
    assert document["user_space_reasons"] == {"KVM_EXIT_IO": 1}
    assert [what[what.rfind("(") :] for what in document["not_said"]] == [
        "(sched:sched_switch)",
        "(x86_fpu:*)",
        "(kvm:kvm_vcpu_wakeup)",
    ]


def test_a_trace_of_perf_prof_with_no_line_but_a_date_and_a_cpu_is_refused(capsys, tmp_path):
    path = tmp_path / "dates.txt"
    path.write_text("2022-04-22 17:39:26.535183         worker-a    435 d... [000]59 9.552240: next_prio:\n" * 3)
    status, out, err = run(capsys, "replay", path, "--check")
    assert (status, out) == (2, "")
    assert err.startswith(f"fpswitch: {path}")


def test_a_replay_of_kvm_s_events_alone_says_what_they_tell(capsys):
    status, _, err = run(capsys, "replay", CASES / "kvm-only-trace.txt", "--check")
    assert status == 2
    assert "Its KVM events are enough for VM exits: fpswitch replay --exits" in err
    status, _, err = run(capsys, "replay", CASES / "trace-no-xsaves.txt", "--exits")
    assert (status, "has no kvm:kvm_exit events" in err) == (2, True)
    assert run(capsys, "replay", CASES / "kvm-only-trace.txt", "--exits", "--check")[0] == 2


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900), st.booleans()), min_size=1, max_size=30))
def test_the_times_of_exits_add_up_to_the_time_of_the_vcpu(runs):
    now, rows = 0, []

    def row(event):
        rows.append(f"{'vcpu':>16}-{4711:<7d} [001] d.... {1 + now * 1e-6:12.6f}: {event}\n")

    for guest_us, handler_us, to_user in runs:
        row("kvm_entry: vcpu 0, rip 0x1")
        now += guest_us
        row(f"kvm_exit: vcpu 0 reason {'IO_INSTRUCTION' if to_user else 'CPUID'} rip 0x1 info1 0x0")
        if to_user:
            row("kvm_userspace_exit: reason KVM_EXIT_IO (2)")
        now += handler_us
    row("kvm_entry: vcpu 0, rip 0x1")
    found = exits(io.BytesIO("".join(rows).encode()), "a trace")
    each = found.reasons.values()
    assert sum(sum(one.guest_ns) for one in each) == sum(guest for guest, _, _ in runs) * 1000
    assert sum(sum(one.handler_ns) for one in each) == sum(took for _, took, user in runs if not user) * 1000
    assert sum(sum(one.outside_ns) for one in each) == sum(took for _, took, user in runs if user) * 1000
    assert (found.exits, found.round_trips) == (len(runs), sum(user for _, _, user in runs) or 0)
