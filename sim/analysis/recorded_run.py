"""A simulated run as the text of a recorded one: what the host notes, as perf script prints it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from sim.host.recording import Noted, Recorder
from sim.host.weights import MIN_NICE, SCHED_PRIO_TO_WEIGHT
from sim.scenario.cases import Case
from sim.trace.following.told import Told
from sim.trace.printing import COMM_LEN, boot_lines, event_line, told_line

FIRST_PID: Final = 1000
_NICE: Final = {weight: MIN_NICE + i for i, weight in enumerate(SCHED_PRIO_TO_WEIGHT)}


class RecordedRun:
    """A run as lines, in the order of time; times begin with the simulation, so they contain the warm-up.

    ``only``: the events that are printed, by their names without the subsystem, and no comment lines about what leaves
    no event, as if the recording were of a real host.
    """

    def __init__(self, case: Case, strategy: str, replication: int, only: frozenset[str] | None = None) -> None:
        self._case = case
        self._strategy = strategy
        self._replication = replication
        self._only = only
        self._recorder = Recorder(case, strategy, replication)
        self._config = self._recorder.config
        self.events = 0

    def lines(self) -> Iterator[str]:
        """Comments, then events."""
        yield from self._comments()
        noted = [each for each in self._recorder.events() if self._only is None or self._name(each) in self._only]
        # In the order of time; at the same time, as the model did them.
        noted.sort(key=lambda each: each.ns)
        for each in noted:
            yield self._line(each)
        self.events = len(noted)

    @property
    def entries(self) -> dict[int, str]:
        """By pid the entry of the scenario to which a thread belongs that is there from the start."""
        return {_pid(each.number): each.name.partition("/")[0] for each in self._recorder.threads}

    @staticmethod
    def _name(noted: Noted) -> str:
        return noted.event.partition(":")[2]

    def _comments(self) -> Iterator[str]:
        case, config = self._case, self._config
        yield (
            f"# kernel {config.version.name}, {case.scenario.host.cpus} cpus, TSC {case.tsc_hz / 1e6:.6f} MHz; a run "
            "of fpswitch, not of Linux"
        )
        yield from boot_lines(config)
        yield f"# case {case.name}, timed by {self._strategy}, replication {self._replication}"
        if self._only is not None:
            return
        threads = {_pid(each.number): (each.kind, each.choice) for each in self._recorder.threads}
        settings = replace(config.settings, guest_xss=case.scenario.kernel.guest_xss)
        yield from Told(settings, threads).comments()

    def _line(self, noted: Noted) -> str:
        pid = _pid(noted.thread)
        if ":" not in noted.event:
            return told_line(noted.ns, noted.cpu, pid, noted.event, **noted.fields)
        comm = "swapper" if noted.thread < 0 else self._comm(noted.thread)
        return event_line(noted.ns, noted.cpu, pid, comm, noted.event, self._payload(noted))

    def _payload(self, noted: Noted) -> str:
        fields, thread = noted.fields, noted.thread
        match noted.event:
            case "sched:sched_switch":
                following = fields["next"]
                return (
                    f"prev_comm={self._comm(thread)} prev_pid={_pid(thread)} prev_prio={self._prio(thread)} "
                    f"prev_state={fields['state']} ==> next_comm={self._comm(following)} next_pid={_pid(following)} "
                    f"next_prio={self._prio(following)}"
                )
            case "sched:sched_wakeup" | "sched:sched_wakeup_new":
                woken = fields["woken"]
                return f"{self._named(woken)} prio={self._prio(woken)} target_cpu={fields['target']:03}"
            case "sched:sched_migrate_task":
                moved = fields["moved"]
                return (
                    f"{self._named(moved)} prio={self._prio(moved)} orig_cpu={fields['source']} "
                    f"dest_cpu={fields['target']}"
                )
            case "sched:sched_process_fork":
                child = fields["child"]
                return f"{self._named(thread)} child_comm={self._comm(child)} child_pid={_pid(child)}"
            case "sched:sched_process_exec":
                return f"filename=/bin/true pid={_pid(thread)} old_pid={_pid(thread)}"
            case "sched:sched_process_exit":
                return f"{self._named(thread)} prio={self._prio(thread)}"
            case "signal:signal_deliver":
                return "sig=10 errno=0 code=-6 sa_handler=401000 sa_flags=4000000"
            case "syscalls:sys_enter_rt_sigreturn":
                return ""
            case "kvm:kvm_fpu":
                return str(fields["load"])
            case "kvm:kvm_entry":
                return f"vcpu {_vcpu(fields['vcpu'])}, rip 0x0 intr_info 0x00000000 error_code 0x00000000"
            case "kvm:kvm_exit":
                reason = str(fields["reason"]).upper().replace("-", "_")
                return (
                    f"vcpu {_vcpu(fields['vcpu'])} reason {reason} rip 0x0 info1 0x0000000000000000 "
                    "info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000 requests 0x0000000000000000"
                )
            case "kvm:kvm_userspace_exit":
                return "reason KVM_EXIT_IO (2)"
            case "kvm:kvm_vcpu_wakeup":
                return f"{fields['how']} time {fields['ns']} ns, polling valid"
        return self._fpu(fields, fields.get("of", thread))

    def _fpu(self, fields: dict[str, Any], number: int) -> str:
        address = 0xFFFF888100000000 + 0x2000 * (number + 1)
        return (
            f"x86/fpu: {address:#x} load: {fields['load']} xfeatures: {fields['xfeatures']} xcomp_bv: "
            f"{fields['xcomp_bv']}"
        )

    def _comm(self, number: int) -> str:
        """The name of a thread in the letters of a comm, of which its number in the group is kept."""
        name = self._recorder.comm(number)
        group, slash, tail = name.partition("/")
        return group[: COMM_LEN - len(slash + tail)] + slash + tail

    def _named(self, number: int) -> str:
        return f"comm={self._comm(number)} pid={_pid(number)}"

    def _prio(self, number: int) -> int:
        return 120 + _NICE.get(self._recorder.weight(number), 0)


def _pid(number: int) -> int:
    return 0 if number < 0 else FIRST_PID + number


def _vcpu(name: object) -> str:
    return str(name).rsplit("vcpu", 1)[-1]
