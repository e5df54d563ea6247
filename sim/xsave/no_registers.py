"""What people have of a CPU that is not a dump of CPUID: what it is, and which shipped CPU it describes, if any."""

import re
from typing import Final, NamedTuple

from sim.xsave.families import AMD, HYGON, INTEL, Family, encoded, family

TO_RUN: Final = "run cpuid -1 -r (package cpuid) on that machine, or fpswitch cpu detect"

_ON_WINDOWS: Final = "save AIDA64's CPUID dump or CPU-Z's report (.txt) there"
_OF_GUESTS: Final = "for a guest, name its model in guests.NAME.cpu_model of a scenario; for the host, " + TO_RUN


_ON_XEN: Final = "run xen-cpuid -p in dom0, or cpuid -1 -r (package cpuid) on that machine without Xen"
_ON_ESXI: Final = "vmware.log of a VM on that host has the registers (hostCPUID lines)"
_OF_XML: Final = "for a guest, guests.NAME.cpu_model of a scenario takes the file; for the host, " + TO_RUN


class Kind(NamedTuple):
    """A text that tells its kind by ``pattern``; ``what`` it is, and what to do instead."""

    pattern: re.Pattern[str]
    what: str
    instead: str


def _kind(pattern: str, what: str, instead: str = TO_RUN) -> Kind:
    return Kind(re.compile(pattern, re.ASCII | re.IGNORECASE | re.MULTILINE), what, instead)


_BEGIN = r"^[^\w\n]*"  # quoted or not

KINDS: Final = (
    _kind(_BEGIN + r"0x[0-9a-f]{8}\s+0x[0-9a-f]{2}: eax=0x[0-9a-f]{8}\b(?!.*\bedx=0x[0-9a-f]{8})",
          "what cpuid -r prints, with lines that are cut off"),
    _kind(_BEGIN + r"CPU implementer\s*:", "/proc/cpuinfo of an ARM machine", "only x86 has these state components"),
    _kind(r'"lscpu"\s*:\s*\[|' + _BEGIN + r"CPU op-mode\(s\):|" + _BEGIN + r"Thread\(s\) per core:",
          "what lscpu prints"),
    _kind(_BEGIN + r"flags\s*:.*\bfpu\b|" + _BEGIN + r"vendor_id\s*:\s*\w+", "/proc/cpuinfo"),
    _kind(_BEGIN + r"Vendor ID:\s|" + _BEGIN + r"CPU +NODE +SOCKET", "what lscpu prints"),
    _kind(r"<domainCapabilities\b", "what virsh domcapabilities prints", _OF_XML),
    _kind(r"<capabilities\b", "what virsh capabilities prints", _OF_XML),
    _kind(r"<cpus>|<cpuid\s+eax_in=[^>]{0,200}\s(?:e[a-d]x=['\"]\w+['\"]\s*){1,2}/>", "libvirt's CPU map", _OF_GUESTS),
    _kind(r"<cpu\b[^>]*>|<model\b[^>]*>", "a CPU of libvirt", _OF_XML),
    _kind(r"Recognized CPUID flags:|^(?:Available CPUs|x86\s+\S.*):?$", "what QEMU's -cpu help prints", _OF_GUESTS),
    _kind(r"\bqemu-system-x86_64\b|\s-cpu\s+\w", "a command line of QEMU", _OF_GUESTS),
    _kind(r"query-cpu-model-expansion|\"model\"\s*:\s*\{\s*\"name\"\s*:[^{}]{0,200}\"props\"",
          "what QEMU answers about a CPU model", _OF_XML),
    _kind(r"\"cpuid-register\"", "what QEMU answers about a CPU's feature words"),
    _kind(r"\"cpuid_modifiers\"", "a CPU template of Firecracker, which leaves bits to the host",
          "cpu-template-helper template dump writes all bits; for the host, " + TO_RUN),
    _kind(r"^cpuid\.[0-9a-f]{1,8}\.(?:\d+\.)?e[a-d]x\s*=",
          "a VM's configuration of VMware, whose cpuid lines are masks",
          "vmware.log has the registers; or " + TO_RUN),
    _kind(r"\bKVM_(?:SET_CPUID2|GET_SUPPORTED_CPUID)\b.*\.\.\.", "what strace prints without -v",
          "strace -v -s 999999 prints all entries; or " + TO_RUN),
    _kind(r"\bCpuIdResult\s*\{", "a list of CpuIdResult of Rust, which does not say of which leaves they are"),
    _kind(r"^RAX=[0-9a-f]{16} RBX=|^CR0=[0-9a-f]{8} CR2=", "what QEMU's info registers prints"),
    _kind(r"\[\d{3,5}\] .*\b(?:sched|kvm|x86_fpu)_\w+: ", "a trace", "fpswitch replay FILE follows it"),
    _kind(r"^\[(?:run|guests\.[\w-]+)\]\s*$", "a scenario",
          "a CPU profile is a file that fpswitch cpu import writes"),
    _kind(r"^CPU-Z (?:TXT Report|version)", "CPU-Z's report without its part \"Thread dumps\"", _ON_WINDOWS),
    _kind(r"^CP +F/M/S +Manufacturer", "what WinDbg's !cpuid prints", _ON_WINDOWS),
    _kind(r"^Coreinfo v|www\.sysinternals\.com", "what Coreinfo prints", _ON_WINDOWS),
    _kind(r"\b(?:Intel64|AMD64) Family \d+ Model \d+", "what Windows says of its CPU", _ON_WINDOWS),
    _kind(r"^ *HyperV\w+\s*:|^VMName +Count\b|^HwThreadCountPerCore\s*:|^Name\s*:?\s.{0,99}\n?.{0,99}\bCPU @ [\d.]+GHz",
          "what PowerShell or wmic says of a CPU", _ON_WINDOWS),
    _kind(r"^ *Level: \w{1,10}\s*\n\s*EAX: |^CPU:\d+\s*\n\s*Id: ", "what esxcli hardware cpu prints", _ON_ESXI),
    _kind(r"^(?:hw_caps|virt_caps|xen_version)\s*:", "what xl info prints", _ON_XEN),
    _kind(r"\"boot_vcpus\"\s*:", "the configuration of a VM of Cloud Hypervisor"),
    _kind(r"^(?:sockets|ostype|scsihw): \w", "the configuration of a VM of Proxmox", _OF_GUESTS),
    _kind(r"^(?:x86_64 +)?(?:pentium3|qemu64|kvm64|Haswell-noTSX|Skylake-Server) *$",
          "a list of CPU models, as virsh cpu-models prints it", _OF_GUESTS),
    _kind(r"^CPU(?: \d+)?:\s*\n\s+vendor_id = ", "what cpuid prints without -r"),
    _kind(r"^# dmidecode|DMI type 4\b", "what dmidecode prints"),
    _kind(r"\*-cpu(?::\d+)?\s*$", "what lshw prints"),
    _kind(_BEGIN + r"Features\d?=0x[0-9a-f]+<", "a boot message of FreeBSD",
          "run cpucontrol -i 0xd,0 /dev/cpuctl0 there (and so on for each sub-leaf), or cpuid -1 -r"),
    _kind(_BEGIN + r"cpu0: (?:.*\bFPU,|.*\bMHz\b)", "a boot message of OpenBSD or NetBSD", "run cpuid -1 -r there"),
    _kind(r"\bmachdep\.cpu\.\w|^hw\.model\b", "a part of what sysctl prints",
          "sysctl machdep.cpu has all (Intel Macs)"),
    _kind(r"Enabled xstate features|Supporting XSAVE feature", "a boot log",
          "fpswitch layout --boot-log FILE reads it; for a profile, " + TO_RUN),
    _kind(r"\"(?:flags|features)\"\s*:\s*\[|^flags\s*: \w+,\w+|\bcpu-cpuid\.[A-Z]", "a list of CPU flags"),
    _kind(r"^[ \t]*(?:\w+ ){0,200}(?:xsave(?: \w+){0,200} avx|avx(?: \w+){0,200} xsave)\b", "a list of CPU flags"),
    _kind(r"^ *Microarchitecture: |^CPU name:\t|^CPUID\(\d\): ", "a description of a CPU"),
    _kind(r"^ *CPU: (?:AMD|Intel)|^ +Model: \d+\.\d+\.\d+ ", "a description of a CPU"),
    _kind(r"^[ \t]*Info: .*\bmodel: |\bmodel name\b|^[ \t]*Features: fpu,", "a description of a CPU"),
)  # fmt: skip
"""The first that fits counts."""

_LOOKED_AT: Final = 1 << 18
"""Characters."""

_VENDOR: Final = re.compile(rf"\b({INTEL}|{AMD}|{HYGON})\b")
_VENDORS: Final = (
    (re.compile(r"\bIntel64\b|<vendor>Intel<|\bIntel\(R\)"), INTEL),
    (re.compile(r"\bAMD64\b|<vendor>AMD<|\bAMD (?:EPYC|Ryzen)\b"), AMD),
)
_SIGNATURES: Final = tuple(
    tuple(re.compile(pattern, re.ASCII | re.IGNORECASE | re.MULTILINE) for pattern in patterns)
    for patterns in (
        tuple(rf"\bfield\"?\s*:\s*\"{name}:?\"\s*,\s*\"data\"\s*:\s*\"(\d{{1,3}})\""
              for name in ("CPU family", "Model", "Stepping")),
        tuple(rf"^[^\w\n]*{name}\s*:\s*(\d{{1,3}})\s*$" for name in ("cpu family", "model", "stepping")),
        tuple(rf"<signature\b[^>]{{0,200}}\b{name}=['\"](\d{{1,3}})['\"]" for name in ("family", "model", "stepping")),
        (r"\bFamily (\d{1,3}) Model \d", r"\bFamily \d{1,3} Model (\d{1,3})\b",
         r"\bModel \d{1,3} Stepping (\d{1,2})\b"),
    )
)  # fmt: skip
_RAW_SIGNATURE: Final = re.compile(r"\bOrigin=\"\w+\"\s+Id=0x([0-9a-f]{3,8})\b|\bsignature:?\s+([0-9A-F]{8})\b")


def told(text: str) -> str:
    """What a text without registers is, and what to do instead; empty if it is of no kind that is known here."""
    text = text[:_LOOKED_AT]
    kind = next((each for each in KINDS if each.pattern.search(text)), None)
    if kind is None:
        return ""
    known = _family(text)
    like = f" (for {known.name}: --cpu {known.like})" if known is not None and known.like else ""
    return f"it is {kind.what}, without sizes and places of components{like}; {kind.instead}"


def _family(text: str) -> Family | None:
    vendor = _VENDOR.search(text)
    maker = vendor[1] if vendor else next((name for pattern, name in _VENDORS if pattern.search(text)), "")
    if raw := _RAW_SIGNATURE.search(text):
        return family(maker, int(raw[1] or raw[2], 16))
    for patterns in _SIGNATURES:
        found = [pattern.search(text) for pattern in patterns]
        if all(found):
            number, model, stepping = (int(match[1]) for match in found if match)
            return family(maker, encoded(number, model, stepping))
    return None
