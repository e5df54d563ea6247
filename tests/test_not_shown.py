"""What kernels do otherwise and no figure tells is said, and only where it makes a difference."""

import pytest

from sim.report.not_shown import sentences


def manifest(kernels, reasons, cpus=("skylake-sp",)):
    exits = {f"e{i}": {"reason": reason} for i, reason in enumerate(reasons)}
    booted = [{"cpu": cpu, "kernel": kernel, "strategy": "no-cet"} for cpu in cpus for kernel in kernels]
    return {
        "resolved": {"host": {"kernel": list(kernels), "cpu": list(cpus)}, "guests": {"g": {"exits": exits}}},
        "cases": [{"strategies": ["no-cet"], "settings": {"no-cet": settings}} for settings in booted],
    }


@pytest.mark.parametrize(
    ("kernels", "reasons", "cpus", "says"),
    [
        (("v6.6", "v6.18"), ["wrmsr-icr"], ("skylake-sp",), ["wrmsr-icr re-enter the guest in the fastpath of v6.18"]),
        (("v6.18", "v6.6"), ["wrmsr-icr"], ("skylake-sp",), ["wrmsr-icr re-enter the guest in the fastpath of v6.18"]),
        (("v6.6", "v6.18"), ["wrmsr-tsc-deadline", "io"], ("skylake-sp",), []),  # re-enters on both
        (("v6.6", "v6.18"), ["wrmsr-tsc-deadline"], ("zen4",), ["wrmsr-tsc-deadline"]),  # on SVM since v6.18
        (("v6.12", "v6.17"), ["wrmsr-icr", "invd"], ("zen4", "skylake-sp"), []),
        (("v6.12", "v6.18"), ["invd", "wrmsr-imm"], ("zen4", "skylake-sp"), ["invd re-enter", "invd, wrmsr-imm"]),
        (("v6.18", "v6.19", "v7.3"), ["wrmsr-icr", "invd"], ("skylake-sp",), []),
        (("v6.18",), ["wrmsr-icr"], ("skylake-sp",), []),
        (("v6.6", "v6.18"), [], ("skylake-sp",), []),
    ],
)
def test_a_fastpath_that_one_of_two_kernels_has_is_named_with_the_exits_that_take_it(kernels, reasons, cpus, says):
    found = sentences(manifest(kernels, reasons, cpus))
    assert len(found) == len(says)
    for sentence, part in zip(found, says, strict=True):
        assert part in sentence
        assert "not zero" in sentence
