"""Boot-time masks and sizes, against numbers worked out from fpu__init_system_xstate() and CPUID dumps by hand."""

import math
from dataclasses import replace

import pytest

from sim.errors import InputError
from sim.kernel.carried import CarriedState
from sim.kernel.config import Settings, boot
from sim.kernel.masks import boot_masks
from sim.kernel.versions import version
from sim.xsave import components
from sim.xsave.components import APX, CET_S, CET_U, PKRU
from sim.xsave.profiles import profile

# cpu, kernel: max_features, host default, guest default, restore mask, IA32_XSS, XCR0
MASKS = {
    ("skylake-sp", "v6.6"): (0x2FF, 0x2FF, 0x2FF, 0xFF, 0x0, 0x2FF),
    ("skylake-sp", "v6.18"): (0x2FF, 0x2FF, 0x2FF, 0xFF, 0x0, 0x2FF),
    ("sapphire-rapids", "v6.6"): (0x60EE7, 0x20EE7, 0x20EE7, 0x60CE7, 0x8C00, 0x602E7),
    ("sapphire-rapids", "rfc"): (0x61EE7, 0x20EE7, 0x21EE7, 0x61CE7, 0x9C00, 0x602E7),
    ("sapphire-rapids", "v6.12"): (0x60EE7, 0x20EE7, 0x20EE7, 0x60CE7, 0x8C00, 0x602E7),
    ("sapphire-rapids", "v6.17"): (0x61EE7, 0x20EE7, 0x21EE7, 0x61CE7, 0x9C00, 0x602E7),
    ("sapphire-rapids", "v7.3"): (0x61EE7, 0x20EE7, 0x21EE7, 0x61CE7, 0x9C00, 0x602E7),
    ("zen4", "v6.12"): (0xAE7, 0xAE7, 0xAE7, 0x8E7, 0x800, 0x2E7),
    ("zen4", "v6.17"): (0x1AE7, 0xAE7, 0x1AE7, 0x18E7, 0x1800, 0x2E7),
    ("zen4", "v7.3"): (0x1AE7, 0xAE7, 0x1AE7, 0x18E7, 0x1800, 0x2E7),
    ("sapphire-rapids", "v6.18"): (0x61EE7, 0x20EE7, 0x21EE7, 0x61CE7, 0x9C00, 0x602E7),
    ("zen4", "v6.6"): (0xAE7, 0xAE7, 0xAE7, 0x8E7, 0x800, 0x2E7),
    ("zen4", "v6.18"): (0x1AE7, 0xAE7, 0x1AE7, 0x18E7, 0x1800, 0x2E7),
    ("zen4", "v6.19"): (0x1AE7, 0xAE7, 0x1AE7, 0x18E7, 0x1800, 0x2E7),
}


def booted(cpu: str, kernel: str):
    cet = version(kernel).guest_only and "SHSTK" in profile(cpu).features
    return boot(Settings(cpu=cpu, kernel=kernel, strategy="xstate-guest" if cet else "no-cet")).masks


BITS = {
    "FP": [0], "SSE": [1], "AVX": [2], "MPX": [3, 4], "OPMASK": [5], "ZMM_HI256": [6], "HI16_ZMM": [7], "PT": [8],
    "AVX512": [5, 6, 7], "PKRU": [9], "PASID": [10], "CET_U": [11], "CET_S": [12], "CET": [11, 12], "UINTR": [14],
    "LBR": [15], "XTILECFG": [17], "XTILEDATA": [18], "XTILE": [17, 18], "APX": [19],
    "SUPERVISOR": [8, 10, 11, 12, 13, 14, 15, 16], "USER": [0, 1, 2, 3, 4, 5, 6, 7, 9, 17, 18, 19],
    "EXTENDED": [*range(2, 63)],
}  # fmt: skip
"""In XCR0 and IA32_XSS, and those of each of the two: Intel SDM vol. 1, section 13.1, and the APX specification."""


def test_a_mask_has_the_bits_of_its_components():
    assert [each.number for each in components.COMPONENTS] == list(range(20))
    for name, numbers in BITS.items():
        assert components.decode(getattr(components, name)) == components.decode(sum(1 << i for i in numbers)), name


@pytest.mark.parametrize(("cpu", "kernel"), MASKS)
def test_boot_masks_are_those_of_the_kernel(cpu, kernel):
    masks = booted(cpu, kernel)
    assert MASKS[cpu, kernel] == (
        masks.max_features, masks.host_default, masks.guest_default, masks.restore_mask, masks.xss, masks.xcr0,
    )  # fmt: skip


# cpu, kernel: normal fpstate, guest fpstate, user (standard) bytes
SIZES = {
    ("skylake-sp", "v6.18"): (2568, 2568, 2696),
    ("sapphire-rapids", "v6.6"): (2560, 2560, 2816),
    ("sapphire-rapids", "v6.18"): (2560, 2560, 2816),
    ("zen4", "v6.6"): (2456, 2456, 2440),
    ("zen4", "v6.18"): (2456, 2480, 2440),
}


@pytest.mark.parametrize(("cpu", "kernel"), SIZES)
def test_fpstate_sizes_are_those_of_the_kernel(cpu, kernel):
    masks = booted(cpu, kernel)
    assert (masks.host_size, masks.guest_size, masks.user_size) == SIZES[cpu, kernel]


def test_a_task_that_has_used_amx_has_an_fpstate_of_the_size_that_a_boot_log_prints():
    """xeon-8480c of the boot logs: 10752 bytes with XTILEDATA; pages of it come on top of the task's own."""
    masks = boot(Settings(cpu="sapphire-rapids", kernel="v6.18")).masks
    assert (masks.amx_size, masks.amx_task_bytes - masks.task_bytes) == (10752, 3 * 4096)
    masks = boot(Settings(cpu="zen4", kernel="v6.18")).masks
    assert masks.amx_size == masks.host_size


def test_the_table_of_differences_says_of_rfc_what_the_eight_patches_make_of_v6_6():
    for cpu in ("sapphire-rapids", "zen4", "granite-rapids"):
        table = version("rfc")
        by_table = boot_masks(profile(cpu), table, enabled=table.guest_only, normal=0, guest=table.guest_only)
        assert by_table == boot(Settings(cpu=cpu, kernel="rfc")).masks


def test_without_pasid_the_guest_fpstate_still_fits():
    masks = boot(Settings(cpu="sapphire-rapids", kernel="v6.18", pasid=False)).masks
    assert (masks.host_default, masks.guest_default, masks.host_size) == (0x20AE7, 0x21AE7, 2560)


def test_a_guest_with_amx_has_xtiledata_in_its_fpstate_and_tasks_do_not():
    config = boot(Settings(cpu="sapphire-rapids", kernel="v6.18", guest_amx=True))
    assert (config.guest_xfeatures, config.guest_fpstate_size) == (0x61EE7, 10752)
    assert config.masks.host_default == 0x20EE7


def test_rfc_patch_1_sets_xss_11_even_where_cpuid_lacks_it_and_that_write_faults():
    spr = profile("sapphire-rapids")
    lacking = replace(spr, xss_supported=spr.xss_supported & ~CET_U)
    with pytest.raises(InputError, match="RFC patch 1 sets IA32_XSS"):
        boot(Settings(kernel="rfc", patches=frozenset((1, 2))), lacking)
    assert not boot(Settings(kernel="rfc", patches=frozenset((2, 3))), lacking).masks.xss & CET_U


def with_apx():
    spr = profile("sapphire-rapids")
    return replace(
        spr,
        xcr0_supported=spr.xcr0_supported | APX,
        features=spr.features | {"APX"},
        sizes={**spr.sizes, 19: 128},
        offsets={**spr.offsets, 19: 960},
    )


@pytest.mark.parametrize("kernel", ["v6.18", "v6.19"])
def test_on_a_cpu_with_apx_every_guest_lacks_it_in_xcr0_and_has_it_in_its_fpstate(kernel):
    # KVM_SUPPORTED_XCR0 has no APX, so two XSETBV for each exit that leaves the loop; guest_default_cfg has it.
    amx = boot(Settings(kernel=kernel, guest_amx=True), with_apx())
    assert (amx.masks.xcr0, amx.guest_xcr0, amx.guest_xfeatures) == (0xE02E7, 0x602E7, 0xE1EE7)
    assert boot(Settings(kernel=kernel), with_apx()).guest_xcr0 == 0x2E7
    with pytest.raises(InputError, match="bits of 0x602e7"):
        boot(Settings(kernel=kernel, guest_xcr0=0xE02E7), with_apx())


def test_a_kernel_without_apx_gives_an_amx_guest_the_hosts_xcr0_on_a_cpu_with_it():
    old = boot(Settings(kernel="v6.6", strategy="no-cet", guest_amx=True), with_apx())
    assert old.masks.xcr0 == old.guest_xcr0 == 0x602E7


@pytest.mark.parametrize(("cpu", "kernel"), MASKS)
def test_pkru_is_saved_and_never_restored(cpu, kernel):
    masks = booted(cpu, kernel)
    assert masks.host_default & PKRU
    assert not masks.restore_mask & PKRU


@pytest.mark.parametrize("cpu", ["sapphire-rapids", "emerald-rapids", "granite-rapids", "zen3", "zen4", "zen5"])
def test_guest_only_cet_s_costs_a_task_no_byte_and_a_guest_no_page(cpu):
    without, guest_only, everywhere = (
        boot(Settings(cpu=cpu, kernel="v6.18", strategy=name)).masks
        for name in ("free-ssp", "xstate-guest", "xstate-all")
    )
    assert without.task_bytes == guest_only.task_bytes == everywhere.task_bytes
    assert without.guest_bytes == guest_only.guest_bytes == everywhere.guest_bytes
    assert everywhere.host_default == without.host_default | CET_S


@pytest.mark.parametrize(("size", "pages"), [(576, 1), (4032, 1), (4033, 2), (8128, 2), (8129, 3), (11008, 3)])
def test_a_guest_fpstate_is_whole_pages_of_its_size_and_64_bytes_before_it(size, pages):
    """struct fpstate has its regs at offset 64, and fpu_alloc_guest_fpstate() takes both by vzalloc() (Linux v6.18)."""
    masks = boot(Settings(cpu="sapphire-rapids")).masks
    assert replace(masks, guest_allocated=size).guest_bytes == 4096 * pages
    assert replace(masks, amx_size=size).amx_fpstate_bytes == 64 + size
    assert replace(masks, host_size=size).task_bytes == 64 + 64 * math.ceil(size / 64)


def test_an_independent_feature_that_cpuid_lacks_is_not_in_ia32_xss():
    """WRMSR of a bit that CPUID.(0DH,1):ECX lacks is #GP (Intel SDM vol. 1, section 13.3), though SHSTK be there."""
    cpu = profile("sapphire-rapids")
    cpu = replace(cpu, xss_supported=cpu.xss_supported & ~CET_S)
    places = {"enabled": 0, "normal": 0, "guest": 0}
    assert boot_masks(cpu, version("v6.6"), **places, independent=CET_S).xss & ~cpu.xss_supported == 0


WRONG = {
    "unknown CPU 'zen9'": {"cpu": "zen9"},
    "unknown kernel version 'v7.0'.*v6.19 is nearest": {"kernel": "v7.0"},
    "unknown strategy 'xstate'": {"strategy": "xstate"},
    "unknown carried state 'lbr'": {"carried": "lbr"},
    "has no supervisor shadow stacks": {"cpu": "ice-lake-sp"},
    "KVM has no CET": {"kernel": "v6.6"},
    r"on v6.12: its KVM has no CET for guests; .*allowed on v6.12: no-cet\)": {"kernel": "v6.12"},
    "no-cet, and xstate-guest, which is what it does": {"kernel": "v6.17", "strategy": "manual-load"},
    r"\(allowed on v6.17: xstate-guest, which is what it does\)": {
        "kernel": "v6.17",
        "strategy": "manual-load",
        "host_shadow_stacks": "fpstate",
    },
    r"\(allowed on v6.12: none, with host shadow stacks\)": {"kernel": "v6.12", "host_shadow_stacks": "return-to-user"},
    "SVM has no MSR load and store lists": {"cpu": "zen4", "strategy": "msr-autoload"},
    "does not enumerate WRMSRNS": {"strategy": "manual-load", "msr_access": "wrmsrns"},
    "does not enumerate MSRLIST": {"strategy": "manual-load", "msr_access": "msr-list"},
    "has no AMX": {"cpu": "zen4", "guest_amx": True},
    "allowed are bits of 0x1800": {"guest_xss": 0x8000},
    "this guest has no CET": {"strategy": "no-cet", "guest_xss": 0x1800},
    "guest XCR0 0x80000: allowed are bit 0": {"guest_xcr0": 1 << 19},
    "guest XCR0 0x5: allowed are masks that have bit 1 with bit 2": {"guest_xcr0": 0x5},
    "guest XCR0 0x27: allowed are .* bits 2 and 5 to 7 together": {"guest_xcr0": 0x27},
    "guest XCR0 0x20007: .* bits 17 and 18 together": {"guest_xcr0": 0x20007, "guest_amx": True},
    r"guest XCR0 0x602e7 has AMX .* allowed with guest_amx": {"guest_xcr0": 0x602E7},
    "needs an xfeature": {"carried": "fred-rsp0"},
    "does not enumerate FRED": {"carried": "fred-rsp0", "strategy": "manual-load"},
    "which needs its own": {"carried": "fred-rsp0", "strategy": "free-ssp"},
    "allowed: off, fpstate, return-to-user": {"host_shadow_stacks": "on"},
    "allowed: rdmsr-wrmsr, wrmsrns, msr-list": {"msr_access": "rdmsr"},
    "in no fpstate": {"strategy": "independent", "host_shadow_stacks": "fpstate"},
    "needs kernel rfc": {"patches": frozenset((3,))},
    "allowed are 1-8": {"kernel": "rfc", "patches": frozenset((9,))},
}


@pytest.mark.parametrize("message", WRONG)
def test_pairs_that_make_no_sense_are_one_clear_error(message):
    with pytest.raises(InputError, match=message) as error:
        boot(Settings(**WRONG[message]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"cpu": "zen4", "strategy": "msr-autoload"},
        {"strategy": "manual-load", "msr_access": "wrmsrns"},
        {"strategy": "user-return", "msr_access": "msr-list"},
    ],
)
def test_what_a_cpu_lacks_is_allowed_as_hypothetical_and_said(settings):
    notes = boot(Settings(**settings, hypothetical=True)).hypothetical
    assert any(note.startswith(settings.get("cpu", "sapphire-rapids")) for note in notes)


@pytest.mark.parametrize(
    ("size", "pages"), [(576, 1), (4032, 1), (4033, 2), (4096, 2), (8128, 2), (8129, 3), (11008, 3)]
)
def test_the_fpstate_of_a_guest_with_amx_is_whole_pages_of_the_larger_size(size, pages):
    """fpstate_realloc(), arch/x86/kernel/fpu/xstate.c, Linux v6.18."""
    config = boot(Settings(cpu="zen4", strategy="no-cet"))
    small = replace(config, masks=replace(config.masks, guest_allocated=576))
    assert replace(small, guest_fpstate_size=size).guest_fpstate_bytes == 4096 * pages
    assert (
        replace(config, masks=replace(config.masks, guest_allocated=size), guest_fpstate_size=576).guest_fpstate_bytes
        == 4096 * pages
    )


@pytest.mark.parametrize("cpu", ["skylake-sp", "sapphire-rapids", "zen4", "diamond-rapids"])
def test_apx_that_is_off_is_no_feature_and_changes_nothing_on_a_cpu_without_it(cpu):
    on, off = (boot(Settings(cpu=cpu, strategy="no-cet", apx=apx)) for apx in (True, False))
    assert off.cpu.features == profile(cpu).features - {"APX"}
    assert (off.masks == on.masks) == (cpu != "diamond-rapids")


@pytest.mark.parametrize(
    ("xfeature", "feature", "xcr0", "xss"),
    [(14, "UINTR", 0, 1 << 14), (15, "ARCH_LBR", 0, 1 << 15), (19, "APX", 1 << 19, 0)],
)
def test_a_component_that_a_cpu_lacks_is_added_where_it_belongs(xfeature, feature, xcr0, xss):
    """User components to XCR0, supervisor components to IA32_XSS: Intel SDM vol. 1, section 13.1."""
    state = CarriedState("mine", "t", {"A": 0x100}, 48, False, "a test", xfeature, feature)
    cpu = profile("zen4")
    found = boot(Settings(cpu="zen4", carried=state, hypothetical=True)).cpu
    assert (found.xcr0_supported, found.xss_supported) == (cpu.xcr0_supported | xcr0, cpu.xss_supported | xss)
    assert (found.sizes[xfeature], {**found.sizes, xfeature: 0}) == (48, {**cpu.sizes, xfeature: 0})


@pytest.mark.parametrize("cpu", ["alder-lake", "sapphire-rapids", "granite-rapids", "diamond-rapids"])
@pytest.mark.parametrize(("xfeature", "size"), [(14, 48), (15, 808), (19, 128)])
def test_a_component_that_a_cpu_has_stays_as_it_is_and_has_the_size_that_cpuid_says(cpu, xfeature, size):
    has = profile(cpu)
    if xfeature not in has.sizes:
        return
    for wrong in (size - 8, size + 8):
        state = CarriedState("mine", "t", {"A": 0x100}, wrong, False, "a test", xfeature)
        with pytest.raises(InputError, match=f"by CPUID: {size}"):
            boot(Settings(cpu=cpu, strategy="free-ssp", carried=state))
    found = boot(Settings(cpu=cpu, strategy="free-ssp", carried=replace(state, size_bytes=size))).cpu
    assert (found.xcr0_supported, found.xss_supported) == (has.xcr0_supported, has.xss_supported)


def test_cet_s_is_added_to_no_cpu():
    found, has = boot(Settings(cpu="skylake-sp", strategy="no-cet")).cpu, profile("skylake-sp")
    assert (found.xcr0_supported, found.xss_supported) == (has.xcr0_supported, has.xss_supported)
