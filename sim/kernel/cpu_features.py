"""Features and settings of QEMU's -cpu on which no state component depends.

Features: feat_names of feature_word_info in QEMU 10's target/i386/cpu.c, libvirt's src/cpu_map/x86_features.xml, whose
own names QEMU takes as aliases, and apxf, which no KVM offers.  Settings: x86_cpu_properties,
x86_cpu_common_class_init() and x86_cpu_parse_featurestr() there.  Names have "-" for "_".
"""

import re
from typing import Final

LIKE: Final = re.compile(
    r"avx(?:2|10(?:-(?:128|256|512|version))?|512\S+|-vnni\S*|-ifma|-ne-convert)"
    r"|amx-(?:bf16|int8|fp16|complex|fp8|tf32|avx512|movrs)|xsave(?:c|opt|erptr)"
    r"|(?:hv|kvm|kvmclock|vmx|svm|sgx|x|xen)-[a-z0-9-]+"
)
"""Those that are not listed one by one."""

_NAMES: Final = (
    "3dnow 3dnowext 3dnowprefetch abm ace2 ace2-en acpi adx aes amd-no-ssb amd-psfd amd-ssbd amd-stibp apic apxf arat "
    "arch-capabilities auto-ibrs avic bhi-ctrl bhi-no bmi1 bmi2 bus-lock-detect cid cldemote clflush clflushopt clwb "
    "clzero cmov cmp-legacy cmpccxadd cmt core-capability cr8legacy cvt16 cx16 cx8 dca ddpd-u de decodeassists ds "
    "ds-cpl dtes64 eraps erms est extapic f16c fb-clear fbsdp-no fdp-excptn-only ffxsr flush-l1d flushbyasid fma fma4 "
    "fpu fred fsgsbase fsrc fsrm fsrs full-width-write fxsr fxsr-opt fzrm gds-no gfni hle ht hypervisor i64 ia64 ibpb "
    "ibpb-brtype ibrs ibrs-all ibs intel-psfd intel-pt intel-pt-lip invpcid invtsc ipred-ctrl kvmclock la57 lahf-lm "
    "lam lbrv lfence-always-serializing lkgs lm lwp mbm-local mbm-total mca mcdt-no mce md-clear mds-no misalignsse "
    "mmx mmxext monitor movbe movdir64b movdiri msr mtrr no-nested-data-bp nodeid-msr npt nrip-save null-sel-clr-base "
    "nx osvw osxsave overflow-recov pae pat pause-filter pbe pbrsb-no pcid pclmuldq pclmulqdq pcommit pconfig pdcm "
    "pdpe1gb perfctr-core perfctr-nb perfmon-v2 pfthreshold pge phe phe-en pks pmm pmm-en pn pni popcnt prefetchiti "
    "pschange-mc-no psdp-no pse pse36 rdctl-no rdpid rdrand rdseed rdtscp rfds-clear rfds-no rrsba-ctrl rsba rtm "
    "sbdr-ssdp-no sbpb sep serialize sgx sgx1 sgx2 sgxlc sha-ni sha512 skinit skip-l1dfl-vmentry sm3 sm4 smap smep "
    "smx spec-ctrl split-lock-detect srso-no srso-user-kernel-no ss ssb-no ssbd sse sse2 sse3 sse4-1 sse4-2 sse4.1 "
    "sse4.2 sse4a ssse3 stibp stibp-always-on succor svm svme-addr-chk syscall taa-no tbm tce tm tm2 topoext tsc "
    "tsc-adjust tsc-deadline tsc-scale tsx-ctrl tsx-ldtrk umip v-vmsave-vmload vaes vgif virt-ssbd vmcb-clean vme vmx "
    "vnmi vpclmulqdq waitpkg wbnoinvd wdt wrmsrns x2apic xcrypt xcrypt-en xd xgetbv1 xop xstore xstore-en xtpr "
    "zero-fcs-fds ospke apic-id check core-id cpuid-0xb die-id enforce family fill-mtrr-mask full-cpuid-auto-level "
    "guest-phys-bits host-phys-bits host-phys-bits-limit kvm l3-cache lbr-fmt legacy-cache legacy-multi-node level "
    "level-func7 lmce migratable min-level min-xlevel min-xlevel2 model model-id module-id node-id phys-bits pmu "
    "socket-id stepping tcg-cpuid thread-id tsc-freq tsc-frequency ucode-rev vendor vmware-cpuid-freq xlevel xlevel2"
)
NAMES: Final = frozenset(_NAMES.split())


def has_no_component(name: str) -> bool:
    """Whether QEMU has a feature or a setting of this name, and no state component depends on it."""
    return name in NAMES or LIKE.fullmatch(name) is not None
