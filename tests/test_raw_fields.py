"""Fields of events as trace-cmd report -R and ftrace's option fields print them."""

import pytest
from trace_texts import read

HEAD = b"           vcpu1-15202   [000] d..2.  3423.898204: "

# Of one event: what the kernel's format prints, what print_fields() of kernel/trace/trace_output.c prints (v6.4 to
# v7.3), and what tep_print_field() of libtraceevent prints.
EVENTS = {
    "x86_fpu_regs_activated": (
        "x86/fpu: 0xffff8881cfb28cc0 load: 1 xfeatures: a2 xcomp_bv: 80000000000008e7",
        "fpu=0xffff8881cfb28cc0 (-131383859966784) load_fpu=0x1 (1) xfeatures=0xa2 (162) "
        "xcomp_bv=0x80000000000008e7 (-9223372036854773529)",
        "fpu=0xffff8881cfb28cc0 load_fpu=1 xfeatures=162 xcomp_bv=9223372036854778087",
    ),
    "x86_fpu_regs_deactivated": (
        "x86/fpu: 0xffff8881cfb28cc0 load: 0 xfeatures: 0 xcomp_bv: 0",
        "fpu=0xffff8881cfb28cc0 (-131383859966784) load_fpu=0x0 (0) xfeatures=0x0 (0) xcomp_bv=0x0 (0)",
        "fpu=0xffff8881cfb28cc0 load_fpu=0 xfeatures=0 xcomp_bv=0",
    ),
    "sched_switch": (
        "prev_comm=hog 0 prev_pid=15205 prev_prio=120 prev_state=R+ ==> next_comm=kicker0 next_pid=15209 next_prio=98",
        "prev_comm=hog 0 prev_pid=0x3b65 (15205) prev_prio=0x78 (120) prev_state=0x100 (256) next_comm=kicker0 "
        "next_pid=0x3b69 (15209) next_prio=0x62 (98)",
        "prev_comm=hog 0 prev_pid=15205 prev_prio=120 prev_state=256 next_comm=kicker0 next_pid=15209 next_prio=98",
    ),
    "sched_wakeup": (
        "comm=kicker0 pid=15209 prio=120 target_cpu=001",
        "comm=kicker0 pid=0x3b69 (15209) prio=0x78 (120) target_cpu=0x1 (1)",
        "comm=kicker0 pid=15209 prio=120 target_cpu=1",
    ),
    "sched_migrate_task": (
        "comm=perf pid=15198 prio=120 orig_cpu=0 dest_cpu=1",
        "comm=perf pid=0x3b5e (15198) prio=0x78 (120) orig_cpu=0x0 (0) dest_cpu=0x1 (1)",
        "comm=perf pid=15198 prio=120 orig_cpu=0 dest_cpu=1",
    ),
    "sched_process_fork": (
        "comm=make pid=15198 child_comm=make child_pid=15199",
        "parent_comm=make parent_pid=0x3b5e (15198) child_comm=make child_pid=0x3b5f (15199)",
        "parent_comm=make parent_pid=15198 child_comm=make child_pid=15199",
    ),
    "sched_process_exec": (
        "filename=/bin/sh pid=15199 old_pid=15199",
        "filename=/bin/sh pid=0x3b5f (15199) old_pid=0x3b5f (15199)",
        "filename=/bin/sh pid=15199 old_pid=15199",
    ),
    "sched_process_exit": (
        "comm=sh pid=15199 prio=120",
        "comm=sh pid=0x3b5f (15199) prio=0x78 (120) group_dead=0x1 (1)",
        "comm=sh pid=15199 prio=120 group_dead=1",
    ),
    "kvm_fpu": ("unload", "load=0x0 (0)", "load=0"),
    "kvm_entry": (
        "vcpu 3, rip 0xffffffff81000000",
        "vcpu_id=0x3 (3) rip=0xffffffff81000000 (-2130706432) immediate_exit=0x0 (0)",
        "vcpu_id=3 rip=0xffffffff81000000 immediate_exit=0",
    ),
    "kvm_exit": (
        "vcpu 3 reason HLT rip 0xffffffff81000000 info1 0x0 info2 0x0",
        "exit_reason=0xc (12) guest_rip=0xffffffff81000000 (-2130706432) isa=0x1 (1) info1=0x0 (0) vcpu_id=0x3 (3)",
        "exit_reason=12 guest_rip=0xffffffff81000000 isa=1 info1=0 vcpu_id=3",
    ),
    "kvm_userspace_exit": ("reason KVM_EXIT_INTR (10)", "reason=0xa (10) errno=0x0 (0)", "reason=10 errno=0"),
    "kvm_vcpu_wakeup": (
        "wait time 1420575 ns, polling valid",
        "ns=0x15ad1f (1420575) waited=0x1 (1) valid=0x1 (1)",
        "ns=1420575 waited=1 valid=1",
    ),
    "signal_deliver": (
        "sig=10 errno=0 code=-6 sa_handler=5636184039c0 sa_flags=4000000",
        "sig=0xa (10) errno=0x0 (0) code=0xfffffffa (-6) sa_handler=0x5636184039c0 (94790335084992) "
        "sa_flags=0x4000000 (67108864)",
        "sig=10 errno=0 code=-6 sa_handler=0x5636184039c0 sa_flags=0x4000000",
    ),
}  # fmt: skip


def one(event, payload):
    found, reader = read(HEAD + f"{event}: {payload}\n".encode())
    assert reader.report.foreign == 0
    return found


@pytest.mark.parametrize("event", EVENTS)
def test_raw_fields_are_what_the_kernel_prints_of_them(event):
    plain, fields, raw = EVENTS[event]
    expected = one(event, plain)
    assert len(expected) == 1
    assert one(event, fields) == one(event, raw) == expected


def test_a_byte_of_the_option_fields_may_be_a_character():
    poll = one("kvm_vcpu_wakeup", "poll time 49 ns, polling invalid")
    assert one("kvm_vcpu_wakeup", "ns=0x31 (49) waited=(0) valid=(0)") == poll
    (event,) = one(
        "x86_fpu_regs_activated", "fpu=0xffff8881cfb28cc0 load_fpu='1' (1) xfeatures=0x3 (3) xcomp_bv=0x0 (0)"
    )
    assert event.values[1:] == (1, 3, 0)
