"""manual-lazy, user-return, the patches of the RFC, and FRED's RSP0 as the carried state, in detail."""

from dataclasses import replace

import pytest
from machine import World
from verdicts import (
    CPUS,
    config,
    exit_to_the_vmm_and_back,
    finds,
    nothing_is_wrong,
    one_vcpu_after_another,
    preempted_in_a_short_ioctl,
    run,
    variant,
    vcpu_whose_guest_has_zeroes,
    world,
)

from sim.errors import InputError
from sim.kernel.config import Config
from sim.kernel.integrity import GUEST_TO_GUEST, WRONG_VALUE
from sim.xsave.components import CET_S, CET_U

# manual-lazy, in detail.


def test_lazy_loses_what_the_guest_loads_by_xrstors():
    w = world("manual-lazy", guest_xss=CET_U | CET_S)
    w.to_guest(0, 0)
    w.guest_switches_task(0, 0, carried=3)  # no interception sees it
    w.exit_guest(0)
    w.schedule(0, None)
    w.to_guest(1, 0)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "CET_KERNEL")]


@pytest.mark.parametrize("cpu", CPUS)
def test_lazy_shows_pl1_and_pl2_to_a_guest_that_has_written_nothing_even_with_xss12_hidden(cpu):
    w = world("manual-lazy", cpu, guest_xss=CET_U)
    one_vcpu_after_another(w)
    assert w.findings() == [(GUEST_TO_GUEST, "guest vcpu1", "CET_KERNEL")]
    assert w.cpus[0].unit.regs[12][0] == 0, "PL0_SSP has been zeroed"
    assert w.cpus[0].unit.regs[12][1] >> 32 == w.vcpus[0].context.id, "PL1_SSP has not"


def test_lazy_would_be_sound_with_xss12_hidden_if_all_three_were_zeroed(tmp_path):
    path = variant(tmp_path, "manual-lazy", "zero = 1", "zero = 3")
    run([config(path, guest_xss=CET_U)], nothing_is_wrong, "zeroes-all", examples=40)


# user-return without its cache.


def forgetful() -> Config:
    booted = config("user-return")
    return replace(booted, strategy=replace(booted.strategy, sets_cache=False))


def test_user_return_that_forgets_to_set_its_cache_is_caught():
    w = World(forgetful())
    one_vcpu_after_another(w)  # vCPU 1 has zeroes, and the CPU is noted to have them
    assert w.kinds == {GUEST_TO_GUEST}


def test_random_sequences_find_a_user_return_that_forgets_to_set_its_cache():
    finds([forgetful()], nothing_is_wrong, "forgetful")


# The RFC's patches.


@pytest.mark.parametrize(
    ("patches", "sound"),
    [
        ({1, 2, 3}, True),
        ({1, 2, 3, 4}, True),
        ({1, 2, 3, 4, 5}, False),
        ({1, 2, 3, 4, 5, 6}, False),
        ({1, 2, 3, 4, 5, 7}, True),
        ({1, 2, 3, 4, 5, 6, 7}, True),
        ({1, 2, 3, 4, 5, 6, 7, 8}, True),
    ],
)
def test_guests_lose_their_ssps_where_the_patches_take_cet_s_out_and_do_not_put_it_back(patches, sound):
    w = world("xstate-guest", kernel="rfc", patches=frozenset(patches))
    exit_to_the_vmm_and_back(w)
    assert w.kinds == (set() if sound else {WRONG_VALUE})


# A second carried state: FRED's RSP0, which has no xfeature and a host value per task.

FRED = {"carried": "fred-rsp0", "kernel": "v6.19", "hypothetical": True}


@pytest.mark.parametrize(
    "strategy", ["manual-exit", "manual-run-guarded", "manual-load", "manual-load-nozero", "msr-autoload"]
)
def test_fred_rsp0_is_sound_with_the_strategies_that_copy_msrs(strategy):
    run([config(strategy, **FRED)], nothing_is_wrong, f"fred {strategy}", examples=25)


def test_fred_rsp0_is_caught_under_user_return_because_the_host_value_is_per_task():
    w = world("user-return", **FRED)
    vcpu_whose_guest_has_zeroes(w)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "FRED_RSP0")]


def test_fred_rsp0_is_caught_under_manual_run_in_a_short_ioctl():
    w = world("manual-run", **FRED)
    preempted_in_a_short_ioctl(w)
    assert WRONG_VALUE in w.kinds


def test_fred_rsp0_under_manual_lazy_shows_the_host_value_to_a_guest_that_has_written_nothing():
    w = world("manual-lazy", **FRED)
    vcpu_whose_guest_has_zeroes(w)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "FRED_RSP0")]


@pytest.mark.parametrize(
    "strategy", ["xstate-all", "xstate-guest", "xstate-guest-resident", "xstate-all-resident", "independent"]
)
def test_fred_rsp0_has_no_xfeature_for_the_strategies_that_need_one(strategy):
    with pytest.raises(InputError, match="needs an xfeature"):
        config(strategy, **FRED)
