"""The machine that is measured: what CPUID, /proc and uname say of it, and which shipped table is nearest."""

import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sim.calibrate.programs import Programs
from sim.costs.rows import COMPONENT_NAMES
from sim.errors import InputError

L1D_BYTES_IF_UNKNOWN: Final = 64 * 1024

# CPUID leaf 1 (family, models) of the CPUs that have a table: Linux v6.18, arch/x86/include/asm/intel-family.h, and
# arch/x86/kernel/cpu/amd.c, bsp_init_amd().
TABLES: Final[tuple[tuple[str, int, tuple[range, ...], str], ...]] = (
    ("GenuineIntel", 6, (range(0x55, 0x56),), "skylake-sp"),
    ("GenuineIntel", 6, (range(0x6A, 0x6B), range(0x6C, 0x6D)), "ice-lake-sp"),
    ("GenuineIntel", 6, (range(0x8F, 0x90),), "sapphire-rapids"),
    ("GenuineIntel", 6, (range(0xCF, 0xD0),), "emerald-rapids"),
    ("GenuineIntel", 6, (range(0xAD, 0xAF),), "granite-rapids"),
    ("AuthenticAMD", 0x19, (range(0x10), range(0x20, 0x60)), "zen3"),
    ("AuthenticAMD", 0x19, (range(0x10, 0x20), range(0x60, 0x80), range(0xA0, 0xB0)), "zen4"),
    ("AuthenticAMD", 0x1A, (range(0x100),), "zen5"),
)
OTHERWISE: Final = {"AuthenticAMD": "zen4", "HygonGenuine": "zen3"}
LAST_RESORT: Final = "sapphire-rapids"
EMULATOR: Final = "TCGTCGTCGTCG"
"""QEMU without KVM: target/i386/cpu.c, TCG_SIGNATURE."""
HYPERVISORS: Final = {"KVMKVMKVM": "KVM", "Microsoft Hv": "Hyper-V", "VMwareVMware": "VMware", "XenVMMXenVMM": "Xen"}


@dataclass(frozen=True, slots=True)
class Machine:
    """The CPU and what runs on it.

    ``xcr0`` holds the components that this process may use; ``sets`` the in-use sets that XGETBV with ECX = 1 has shown
    after an XRSTOR of each, empty if there are too many to try.
    """

    name: str
    vendor: str
    family: int
    model: int
    stepping: int
    microcode: str
    kernel: str
    hypervisor: str
    kvm: str
    xcr0: int
    sets: tuple[int, ...]
    l1d_bytes: int

    @property
    def where(self) -> str:
        """The machine as a row's conditions name it; the method is to follow."""
        cpu = f"{self.name}, family {self.family:x}h model {self.model:x}h stepping {self.stepping}"
        guest = f"{self.hypervisor} guest" if self.hypervisor else "no hypervisor"
        return f"CPU: {cpu}, microcode {self.microcode}, {guest}; kernel: Linux {self.kernel}"

    @property
    def nearest(self) -> tuple[str, bool]:
        """The shipped table from which this CPU's is derived, and whether it is that CPU's own."""
        for vendor, family, models, table in TABLES:
            if (vendor, family) == (self.vendor, self.family) and any(self.model in each for each in models):
                return table, True
        return OTHERWISE.get(self.vendor, LAST_RESORT), False


def components(mask: int) -> str:
    """The names of the components of a mask, as rows write them."""
    return " ".join(name for number, name in enumerate(COMPONENT_NAMES) if mask >> number & 1)


def refuse_other_machines() -> None:
    """Raises :class:`InputError` where nothing can be measured: not Linux, not 64-bit x86, no XSAVE."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise InputError(
            f"calibrate: this is {platform.system()} on {platform.machine()}; it measures x86_64 under Linux only"
        )
    flags = _cpuinfo("flags").split()
    if flags and "xsave" not in flags:
        raise InputError("calibrate: this CPU has no XSAVE, or the kernel was booted with noxsave")


def this_machine(programs: Programs) -> Machine:
    """What the machine on which this runs is.

    Raises :class:`InputError` for an emulated CPU, and for one without XSAVE, XSAVEOPT, XSAVEC, or XGETBV with ECX = 1
    (what is in use).
    """
    probed = json.loads(subprocess.run([programs.probe], capture_output=True, check=True, timeout=60).stdout)
    if missing := probed.get("missing"):
        raise InputError(f"calibrate: this CPU has no {missing}, without which nothing can be measured")
    signature = probed["hypervisor"]
    if signature == EMULATOR:
        raise InputError("calibrate: this machine is emulated by QEMU's TCG, whose times are not those of a CPU")
    return Machine(
        name=" ".join(_cpuinfo("model name").split()) or probed["vendor"],
        vendor=probed["vendor"],
        family=probed["family"],
        model=probed["model"],
        stepping=probed["stepping"],
        microcode=_cpuinfo("microcode") or "not shown",
        kernel=platform.release(),
        hypervisor=HYPERVISORS.get(signature, signature),
        kvm=_kvm(),
        xcr0=probed["xcr0"],
        sets=tuple(probed["sets"]),
        l1d_bytes=_l1d_bytes(),
    )


def _cpuinfo(key: str) -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    match = re.search(rf"^{key}\s*: (.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _kvm() -> str:
    """The module that runs virtual machines: kvm_intel, kvm_amd, or one that does without VMX and SVM."""
    return " ".join(sorted(each.name for each in Path("/sys/module").glob("kvm_*")))


def _l1d_bytes() -> int:
    try:
        return os.sysconf("SC_LEVEL1_DCACHE_SIZE") or L1D_BYTES_IF_UNKNOWN
    except ValueError:
        return L1D_BYTES_IF_UNKNOWN
