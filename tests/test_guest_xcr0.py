"""Which XCR0 a guest may have: all masks of the components that KVM can offer, against the rules of XSETBV."""

from itertools import chain, combinations

import pytest

from sim.errors import InputError
from sim.kernel.settings_checks import KVM_SUPPORTED_XCR0, check_guest_xcr0, xsetbv_refuses

OFFERED = {0, 1, 2, 3, 4, 5, 6, 7, 9, 17, 18}
"""kvm_caps.supported_xcr0 of Linux v6.18 on a CPU with all of them (KVM_SUPPORTED_XCR0, arch/x86/kvm/x86.c)."""

# Intel SDM vol. 1, section 13.3 "Enabling the XSAVE Feature Set and XSAVE-Enabled Features".
RULES = {
    "bit 0": lambda bits: 0 in bits,
    "bit 1 with bit 2": lambda bits: 2 not in bits or 1 in bits,
    "bits 2 and 5 to 7": lambda bits: not bits & {5, 6, 7} or {2, 5, 6, 7} <= bits,
    "bits 3 and 4": lambda bits: len(bits & {3, 4}) != 1,
    "bits 17 and 18": lambda bits: len(bits & {17, 18}) != 1,
}
MASKS = list(map(set, chain.from_iterable(combinations(sorted(OFFERED), n) for n in range(1, 12))))


def mask_of(bits):
    return sum(1 << bit for bit in bits)


def test_xsetbv_refuses_the_masks_that_the_sdm_says_and_by_which_rule():
    assert mask_of(OFFERED) == KVM_SUPPORTED_XCR0
    for bits in MASKS:
        broken = [rule for rule, holds in RULES.items() if not holds(bits)]
        said = list(xsetbv_refuses(mask_of(bits)))
        assert len(said) == len(broken), bits
        assert all(each.startswith(rule) for each, rule in zip(said, broken, strict=True)), bits


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("lacking", [(), (9,), (3, 4), (5, 6, 7), (2, 5, 6, 7)])
def test_a_guest_may_have_what_is_offered_xsetbv_takes_and_amx_only_if_it_is_given(lacking, amx):
    offered = OFFERED - set(lacking)
    for bits in [set(), *MASKS]:
        is_allowed = bits <= offered and all(holds(bits) for holds in RULES.values()) and (amx or not bits & {17, 18})
        try:
            check_guest_xcr0(mask_of(bits), mask_of(offered), amx)
        except InputError:
            assert not is_allowed, bits
        else:
            assert is_allowed, bits
