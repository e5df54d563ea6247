"""Traces with KVM's events alone: round trips, exits and their times."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_texts import CASES, run

from sim.trace.exits import exits
from sim.trace.fit import of_exits
from sim.trace.reading.exit_reasons import as_kernel, vendor_of

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


def of_reasons(reasons, payload="vcpu 0 reason {} rip 0xfff0 info1 0x0000000000000000 info2 0x0000000000000000"):
    """Exits for these reasons, 10 us after each entry, as trace-cmd prints them."""
    rows = []
    for number, reason in enumerate(reasons):
        for event, us, fields in (
            ("kvm_entry", 20 * number, "vcpu 0, rip 0xfff0"),
            ("kvm_exit", 20 * number + 10, payload.format(reason)),
        ):
            rows.append(f"{'CPU 0/KVM':>16}-{4711:<5d} [001] {1 + us * 1e-6:12.6f}: {event + ':':21} {fields}\n")
    return io.BytesIO("".join(rows).encode())


# By number: libtraceevent's plugins/plugin_kvm.c, SVM_EXIT_REASONS; Linux's arch/x86/include/uapi/asm/svm.h, the same.
SVM = {
    0x065: ("EXIT_CR0_SEL_WRITE", "cr0_sel_write"), 0x018: ("EXIT_WRITE_CR8", "write_cr8"),
    0x046: ("EXIT_EXCP_UD", "UD excp"), 0x060: ("EXIT_INTR", "interrupt"), 0x064: ("EXIT_VINTR", "vintr"),
    0x066: ("EXIT_IDTR_READ", "read_idtr"), 0x06D: ("EXIT_TR_WRITE", "write_rt"), 0x072: ("EXIT_CPUID", "cpuid"),
    0x078: ("EXIT_HLT", "hlt"), 0x07B: ("EXIT_IOIO", "io"), 0x07C: ("EXIT_MSR", "msr"),
    0x081: ("EXIT_VMMCALL", "hypercall"), 0x400: ("EXIT_NPF", "npf"), -1: ("EXIT_ERR", "invalid_guest_state"),
    0x402: ("EXIT_AVIC_UNACCELERATED_ACCESS", "avic_unaccelerated_access"),
}  # fmt: skip


def test_exit_reasons_of_libtraceevent_s_plugin_are_the_kernel_s():
    of_plugin, of_kernel = zip(*SVM.values(), strict=True)
    payload = "reason {} rip 0xffffffff81f5d3fb info 0 800000ec"  # the plugin prints no vCPU
    found = exits(of_reasons(of_plugin, payload), "of the plugin")
    assert tuple(found.reasons) == of_kernel
    assert found.reasons == exits(of_reasons(of_kernel), "of the kernel").reasons
    assert found.halts == 1
    for reason in ("EXTERNAL_INTERRUPT", "HLT", "EXIT", "EXIT_", "npf", "0x403", "UNKNOWN"):
        assert as_kernel(reason) == reason


@pytest.mark.parametrize(
    ("reasons", "vendor"),
    [
        (("hlt", "UD excp"), "svm"), (("EXIT_HLT", "EXIT_EXCP_UD"), "svm"), (("hlt", "UNKNOWN"), "svm"),
        (("UNKNOWN[1027]", "npf"), "svm"), (("HLT", "UNKNOWN"), "vmx"), (("0x403", "EPT_VIOLATION"), "vmx"),
    ],
)  # fmt: skip
def test_the_vendor_is_that_of_the_reasons_that_have_a_name(reasons, vendor):
    found = exits(of_reasons(reasons), "a trace")
    assert vendor_of(found.reasons) == vendor
    fitted, _ = of_exits.fit(of_reasons(reasons), "a trace")
    assert fitted.cpu == {"vmx": "sapphire-rapids", "svm": "zen4"}[vendor]


@pytest.mark.parametrize("name", ["kvm-only-trace.txt", "trace-no-xsaves.txt"])
@pytest.mark.parametrize(("drops", "lacks"), [(r"(?<=\d: )[ ]*(?:\w+:)?\w+: ", "names"), (r"(?<=[a-z]:) .*", "fields")])
def test_events_without_names_or_fields_are_told_in_one_sentence(capsys, tmp_path, name, drops, lacks):
    """As perf script -F without event, or without trace, prints them."""
    path = tmp_path / "trace.txt"
    lines = [line for line in (CASES / name).read_text().splitlines(True) if not line.startswith("#")]
    text = re.sub(r"(?<=\]) \S{4,5} ", " ", "".join(lines))  # ftrace's flags
    path.write_text(re.sub(drops, "", text))
    for options in (("--check",), ("--exits",), ()):
        assert run(capsys, "replay", path, *options) == (
            2,
            "",
            f"fpswitch: {path}: this is what perf script prints without the {lacks} of events (perf script -F "
            "comm,tid,cpu,time,event,trace prints them)\n",
        )


def test_what_is_amiss_with_a_trace_is_said_beside_its_exits(capsys, tmp_path):
    path = tmp_path / "trace.txt"
    rows = of_reasons(["HLT"] * 9).getvalue().decode().splitlines(True)
    path.write_text("".join([*rows[:4], "CPU:1 [LOST 12 EVENTS]\n", *rows[4:], "some words\n", rows[-1][:40]]))
    says = [
        "events were lost once (12 as far as the tool says)",
        "1 line is not an event; the first: 'some words'",
        "the end is cut off",
    ]
    status, out, _ = run(capsys, "replay", path, "--exits", "--json")
    assert (status, json.loads(out)["notes"]) == (0, says)
    assert run(capsys, "replay", path, "--exits")[1].splitlines()[-3:] == says
    fitted, _ = of_exits.fit(path.open("rb"), "a trace")
    assert set(says) < set(fitted.notes)
    path.write_text("".join(f"{name}: {row}" for row in rows for name in ("trace.dat", "trace-vm.dat")))
    status, out, _ = run(capsys, "replay", path, "--exits", "--json")
    assert json.loads(out)["notes"] == [
        "a merged report: the lines of trace.dat are followed; lines left out: 18 of trace-vm.dat"
    ]


def test_a_thread_that_enters_several_vcpus_is_told(capsys, tmp_path):
    """perf script -F pid without tid prints the same number for all vCPUs of a VM."""
    path = tmp_path / "trace.txt"
    rows = of_reasons(["HLT"] * 4).getvalue().decode().splitlines(True)
    path.write_text("".join([*rows[:4], *(row.replace("vcpu 0", "vcpu 1") for row in rows[4:])]))
    (note,) = json.loads(run(capsys, "replay", path, "--exits", "--json")[1])["notes"]
    assert note.startswith("thread 4711 enters 2 vCPUs, whose times are mixed: process IDs in place of thread IDs?")
    path.write_text("".join([*rows[:4], *(row.replace("4711", "4712") for row in rows[4:])]))
    assert json.loads(run(capsys, "replay", path, "--exits", "--json")[1])["notes"] == []
