"""Kernels in random and in chosen sequences, judged by the integrity check."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import World
from random_machine import Sequences

from sim.kernel import strategies
from sim.kernel.config import Config, Settings, boot

CPUS = ("sapphire-rapids", "zen4")

FIXED = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
"""The same sequences in every run; which ones is the seed's."""


def config(strategy: str, cpu: str = "sapphire-rapids", kernel: str = "v6.18", **more) -> Config:
    """A kernel to judge a strategy by: on a processor that keeps to the architecture."""
    keeps = {"legacy_sse_write_marks_avx_in_use": False}
    return boot(Settings(cpu=cpu, kernel=kernel, strategy=strategy, **(keeps | more)))


def world(strategy: str, cpu: str = "sapphire-rapids", kernel: str = "v6.18", **more) -> World:
    return World(config(strategy, cpu, kernel, **more))


def run(
    configs: list[Config],
    check: Callable[[World], None],
    name: str,
    examples: int = FIXED.max_examples,
    phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink),
) -> None:
    """Random sequences from the seed ``name``; ``check`` after each action."""

    class Checked(Sequences):
        def check(self) -> None:
            for each in self.worlds:
                check(each)

    Checked.configs = configs
    chosen = settings(FIXED, max_examples=examples, phases=phases)
    run_state_machine_as_test(seed(crc32(name.encode()))(Checked), settings=chosen)


def finds(configs: list[Config], check: Callable[[World], None], name: str) -> None:
    """Random sequences find something; which one is not of interest, so it is not made shorter."""
    with pytest.raises(AssertionError):
        run(configs, check, name, examples=2000, phases=(Phase.generate,))


def nothing_is_wrong(each: World) -> None:
    assert not each.violations, (each.k.strategy.name, each.findings())


def variant(tmp_path: Path, name: str, old: str, new: str) -> str:
    """The path of a strategy file that is the shipped ``name`` but for one replacement."""
    text = (Path(strategies.__file__).parent / "data" / "strategies" / f"{name}.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "variant.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return str(path)


def writes_ssps(w: World, c: int, vcpu: int) -> None:
    """The guest of this vCPU writes all three SSPs."""
    w.to_guest(c, vcpu)
    for index in range(len(w.k.carried_names)):
        w.guest_writes_carried(c, index)


def preempted_in_a_short_ioctl(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.to_user(0, 0)
    w.enter_kernel(0)
    w.ioctl(0)  # nothing is loaded, and the sched-out notifier saves
    w.schedule(0, None)
    w.to_guest(0, 0)


def exit_to_the_vmm_and_back(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.to_user(0, 0)
    w.to_guest(0, 0)


def one_vcpu_after_another(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.exit_guest(0)
    w.to_guest(0, 1)


def vcpu_whose_guest_has_zeroes(w: World) -> None:
    w.to_user(0, 3)
    w.enter_kernel(0)
    w.to_guest(0, 0)
