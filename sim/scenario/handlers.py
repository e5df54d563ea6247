"""What KVM's software takes for an exit where a scenario does not say: a row of the CPU's cost table.

It is software beside the operations that are listed one by one, so a row of its own, and nothing of it is in the rows
of VM entry and exit, which end where the fastpath would re-enter the guest.
"""

from sim.costs.price import price
from sim.costs.rows import CostTable
from sim.kernel.guests import counts_instructions
from sim.kernel.versions import version
from sim.kernel.vpmu import EMULATED_IN_FASTPATH
from sim.scenario.distribution import Distribution
from sim.scenario.schema import Exit, Guest
from sim.xsave.profiles import CpuProfile


def with_handler_times(
    guest: Guest, profile: CpuProfile, kernel: str, table: CostTable, tsc_hz: float, mediated: bool, all_count: bool
) -> Guest:
    """The guest with a time for the handler of each exit; 0 for those after which the kernel's fastpath re-enters.

    ``mediated``: guests have a mediated vPMU; ``all_count``: they count instructions, where their entry does not say.
    """
    re_entered = set(version(kernel).fastpath["vmx" if profile.vendor == "intel" else "svm"])
    if mediated and counts_instructions(all_count, guest.choice):
        re_entered -= EMULATED_IN_FASTPATH

    def complete(exit: Exit) -> Exit:
        if exit.time is not None:
            return exit
        cycles = 0 if exit.reason in re_entered else price(("", "", f"exit handler({exit.reason})"), table)
        return exit.model_copy(update={"time": Distribution(kind="constant", mean=cycles / tsc_hz)})

    return guest.model_copy(update={"exits": {name: complete(each) for name, each in guest.exits.items()}})
