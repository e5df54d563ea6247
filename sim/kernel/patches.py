"""The eight patches of "[RFC PATCH 0/8] Introduce CET supervisor xstate support", and what any subset of them does.

Yang Weijiang, 14 Sep 2023, on v6.6-rc1, Message-Ids 20230914032334.75212-(n+1)-weijiang.yang@intel.com.  Patch 3 was
read in its next posting, v7 03/26 of 24 Nov 2023 (20231124055330.138870-4-weijiang.yang@intel.com), whose diffstat is
the same.  Nobody has posted the patches separately: what a subset builds and does follows from the hunks.  What became
of them is from: the push of tip's x86/fpu branch of 24 Jun 2025 (7bc4ed75f2d6 to 8b05b3c98816, all by Chao Gao or Yang
Weijiang), which is in v6.17.0, and the code of v6.12.117, v6.17.0 and v7.3.4.
"""

from dataclasses import dataclass
from typing import Final

from sim.errors import InputError

ALL_PATCHES: Final = frozenset(range(1, 9))


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: its title, what it changes, what became of it (with Linux commits), and which patches it needs."""

    number: int
    title: str
    does: str
    fate: str
    needs: tuple[int, ...] = ()
    why: str = ""


PATCHES: Final = (
    Patch(
        1,
        "x86/fpu/xstate: Manually check and add XFEATURE_CET_USER xstate bit",
        "CET_U is set in fpu_kernel_cfg.max_features if the CPU has SHSTK or IBT, no longer only with SHSTK, and even "
        "where CPUID.(0DH,1) does not have it, so that WRMSR(IA32_XSS) would fault",
        "dropped: it stayed in the KVM series up to v10 (19 Feb 2024) and is not in what was merged. In v7.3 CET_U "
        "still needs SHSTK",
    ),
    Patch(
        2,
        "x86/fpu/xstate: Fix guest fpstate allocation size calculation",
        "guest fpstates are allocated with fpu_kernel_cfg.default_size instead of fpu_user_cfg.default_size",
        'merged separately, by another author: 1937e18cc3cf ("x86/fpu: Fix guest FPU state buffer allocation size", '
        "Stanislav Spassov), v6.15, and stable 6.1, 6.6, 6.12 and 6.14",
    ),
    Patch(
        3,
        "x86/fpu/xstate: Add CET supervisor mode state support",
        "CET_S is enabled: in max_features, IA32_XSS and the restore mask, and in every default fpstate",
        'merged, and guest-only from the start: 8b05b3c98816 ("x86/fpu/xstate: Add CET supervisor xfeature support as '
        'a guest-only feature"), v6.17',
    ),
    Patch(
        4,
        "x86/fpu/xstate: Introduce kernel dynamic xfeature set",
        "fpu_kernel_dynamic_xfeatures names CET_S; patches 5-8 use it",
        'replaced by a constant mask, XFEATURE_MASK_GUEST_SUPERVISOR: 151bf232494d ("x86/fpu/xstate: Introduce '
        '"guest-only" supervisor xfeature set"), v6.17',
        needs=(3,),
        why="it names XFEATURE_CET_KERNEL, which patch 3 defines",
    ),
    Patch(
        5,
        "x86/fpu/xstate: Remove kernel dynamic xfeatures from kernel default_features",
        "fpu_kernel_cfg.default_features loses CET_S, and with it every normal and, until patch 7, guest fpstate",
        'merged in substance: 7bc4ed75f2d6 ("x86/fpu/xstate: Differentiate default features for host and guest FPUs"), '
        "v6.17, where host and guest masks are separate from the start",
        needs=(4,),
        why="it uses fpu_kernel_dynamic_xfeatures, which patch 4 defines",
    ),
    Patch(
        6,
        "x86/fpu/xstate: Opt-in kernel dynamic bits when calculate guest xstate size",
        "the size computed for a guest's permission request (AMX) includes CET_S",
        'merged in substance: 7c2c89364d92 ("x86/fpu: Initialize guest FPU permissions from guest defaults"), v6.17; '
        'and besides d8414603b29f ("x86/fpu/xstate: Always preserve non-user xfeatures/flags in __state_perm")',
        needs=(4,),
        why="it uses fpu_kernel_dynamic_xfeatures, which patch 4 defines",
    ),
    Patch(
        7,
        "x86/fpu/xstate: Tweak guest fpstate to support kernel dynamic xfeatures",
        "guest fpstates get CET_S in xfeatures and in their size, which overrides what patch 2 changed",
        'merged in substance: 509e880b7795 ("x86/fpu: Initialize guest fpstate and FPU pseudo container from guest '
        'defaults"), v6.17',
        needs=(4,),
        why="it uses fpu_kernel_dynamic_xfeatures, which patch 4 defines",
    ),
    Patch(
        8,
        "x86/fpu/xstate: WARN if normal fpstate contains kernel dynamic xfeatures",
        "with CONFIG_X86_DEBUG_FPU, WARN_ON_FPU at a save of a normal fpstate whose mask has CET_S; the mask stays",
        "dropped in v5 of the FPU series (10 Apr 2025): no os_xsave() up to v7.3 has such a WARN",
        needs=(4,),
        why="it uses fpu_kernel_dynamic_xfeatures, which patch 4 defines",
    ),
)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a subset of the patches does to v6.6: the patches that take part, and why others do not."""

    patches: frozenset[int]
    notes: tuple[str, ...]

    @property
    def cet_u_needs(self) -> tuple[str, ...]:
        """CPU features of which any one keeps CET_U."""
        return ("SHSTK", "IBT") if self.adds_cet_u else ("SHSTK",)

    @property
    def adds_cet_u(self) -> bool:
        """Whether CET_U is set in max_features without checking CPUID."""
        return 1 in self.patches

    @property
    def allocates_user_size(self) -> bool:
        """Whether guest fpstates are still allocated with the standard format's size."""
        return not self.patches & {2, 7}

    @property
    def enables(self) -> bool:
        """Whether CET_S is in max_features, IA32_XSS and the restore mask."""
        return 3 in self.patches

    @property
    def in_normal_fpstates(self) -> bool:
        """Whether tasks save CET_S."""
        return self.enables and 5 not in self.patches

    @property
    def in_guest_fpstates(self) -> bool:
        """Whether guest fpstates save CET_S."""
        return self.enables and (5 not in self.patches or 7 in self.patches)

    @property
    def in_guest_permission_size(self) -> bool:
        """Whether the size computed for a guest with AMX counts CET_S."""
        return self.in_normal_fpstates or (self.enables and 6 in self.patches)

    @property
    def warns(self) -> bool:
        """Whether a normal fpstate with CET_S in its save mask sets off WARN_ON_FPU."""
        return 8 in self.patches


def effect(patches: frozenset[int]) -> Effect:
    """The subset as it builds: a patch whose prerequisite is missing is left out, and a note says so."""
    if wrong := sorted(patches - ALL_PATCHES):
        raise InputError(f"RFC patch {wrong[0]}: allowed are 1-8")
    built = set(patches)
    notes = []
    for patch in PATCHES:
        if patch.number in built and (missing := [need for need in patch.needs if need not in built]):
            built.discard(patch.number)
            notes.append(f"{patch.number} does not build without {missing[0]}: {patch.why}")
    if 4 in built and not built & {5, 6, 7, 8}:
        notes.append("4 has no effect without one of 5-8")
    if 8 in built and 7 not in built:
        notes.append("8 needs the declaration in fpu/xstate.h that 7 adds; only that line of 7 is taken along")
    if 2 in built and 7 in built:
        notes.append("2 has no effect with 7, which computes the allocation anew")
    if 6 in built and 5 not in built:
        notes.append("6 has no effect without 5: the default features still have CET_S")
    return Effect(frozenset(built), tuple(notes))
