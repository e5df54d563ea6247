"""Prints events as perf script does, and boot lines as the kernel does: what :mod:`sim.trace.reading` reads back.

Formats: tools/perf/builtin-script.c perf_sample__fprintf_start() with --ns, and TP_printk of include/trace/events/ and
arch/x86/, Linux v6.18; arch/x86/kernel/fpu/xstate.c print_xstate_features(), print_xstate_offset_size(),
fpu__init_system_xstate().
"""

from collections.abc import Iterator
from typing import Final

from sim.kernel.config import Config
from sim.xsave.components import COMPONENTS, bits

COMM_LEN: Final = 15
"""TASK_COMM_LEN, without the zero."""
TOLD_COMM: Final = "# fpswitch"


def event_line(ns: int, cpu: int, tid: int, comm: str, event: str, payload: str) -> str:
    """One event; ``event`` has its subsystem."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{comm[:COMM_LEN]:>16} {tid:5} [{cpu:03}] {seconds:5}.{rest:09}: {event:>36}: {payload}"


def told_line(ns: int, cpu: int, tid: int, point: str, components: int = 0, carried: int = 0) -> str:
    """A flow point that leaves no event in Linux, as a comment line for every other reader."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return (
        f"{TOLD_COMM:<16} {tid:5} [{cpu:03}] {seconds:5}.{rest:09}: {'fpswitch:fp_' + point:>36}: "
        f"components: {components:x} carried: {carried}"
    )


def boot_lines(config: Config) -> Iterator[str]:
    """What this kernel prints about its FPU when it boots, as comments."""
    masks = config.masks
    layout = config.cpu.compacted(masks.max_features)
    for i in bits[masks.max_features]:
        yield f"# x86/fpu: Supporting XSAVE feature {1 << i:#05x}: '{COMPONENTS[i].name}'"
    for i, offset in sorted(layout.offsets.items()):
        if masks.max_features >> i & 1:
            yield f"# x86/fpu: xstate_offset[{i}]: {offset:4}, xstate_sizes[{i}]: {config.cpu.sizes[i]:4}"
    yield (
        f"# x86/fpu: Enabled xstate features {masks.max_features:#x}, context size is {layout.size} bytes, using "
        "'compacted' format."
    )
