"""What `cpuid` prints without -r, decoded field by field, is the CPU too."""

import re

import pytest
from cpu_dumps import imported_text, leaves

from sim.xsave import cpuid_decoded
from sim.xsave.families import AMD, INTEL, decoded
from sim.xsave.profile_data import shipped
from sim.xsave.profiles import profile


def components_of(one):
    return one.xcr0_supported, one.xss_supported, one.sizes, one.offsets, one.aligned, one.xfd_supported


def as_decoded(name, halves, quote=""):
    """What cpuid prints without -r, in its older wording with ``halves`` of the masks."""

    def mask(register, value):
        if not halves:
            return f"      {register} valid bit field mask               = {value:#018x}\n         x87 state  = true\n"
        return "".join(
            f"      {register} {half} 32 bits valid bit field mask = {part:#010x}\n"
            for half, part in (("lower", value & 0xFFFFFFFF), ("upper", value >> 32))
        )

    registers = leaves(name)
    (eax, ebx, ecx, _), (instructions, size, xss, _) = (registers[13][sub] for sub in (0, 1))
    number, model, stepping = decoded(registers[1][0][0])
    flags = ("XSAVEOPT instruction", "XSAVEC instruction", "XGETBV instruction", "XSAVES/XRSTORS instructions")
    flags += ("XFD: extended feature disable supported",)
    lines = (
        "CPU 0:\n"
        f'   vendor_id = "{INTEL if shipped(name)["vendor"] == "intel" else AMD}"\n'
        "   version information (1/eax):\n      processor type  = primary processor (0)\n"
        f"      family          = 0x{min(number, 15):x} ({min(number, 15)})\n"
        f"      model           = 0x{model & 15:x} ({model & 15})\n"
        f"      stepping id     = 0x{stepping:x} ({stepping})\n"
        f"      extended family = 0x{max(number - 15, 0):x} ({max(number - 15, 0)})\n"
        f"      extended model  = 0x{model >> 4:x} ({model >> 4})\n"
        "      XSAVE/XSTOR states                      = true\n"
        "      AVX: advanced vector extensions         = true\n"
        "      hypervisor guest status                 = false\n"
        "   XSAVE features (0xd/0):\n" + mask("XCR0", eax)
        + f"      bytes required by fields in XCR0        = {ebx:#010x} ({ebx})\n"
        f"      bytes required by XSAVE/XRSTOR area     = {ecx:#010x} ({ecx})\n"
        + "".join(
            f"      {flag}    = {'true' if instructions >> bit & 1 else 'false'}\n" for bit, flag in enumerate(flags)
        )
        + f"      SAVE area size in bytes                 = {size:#010x} ({size})\n" + mask("IA32_XSS", xss)
    )  # fmt: skip
    for sub, (of, at, how, _) in registers[13].items():
        if sub > 1:
            where = "IA32_XSS (supervisor state)" if how & 1 else "XCR0 (user state)"
            lines += (
                f"   XYZ features (0xd/{hex(sub) if sub > 9 else sub}):\n"
                f"      XYZ save state byte size                = {of:#010x} ({of})\n"
                f"      XYZ save state byte offset              = {at:#010x} ({at})\n"
                f"      supported in IA32_XSS or XCR0           = {where}\n"
                f"      64-byte alignment in compacted XSAVE    = {'true' if how & 2 else 'false'}\n"
                f"      XFD faulting supported                  = {'true' if how & 4 else 'false'}\n"
            )
    lines += "   Quality of Service Monitoring Resource Type (0xf/0):\n      Maximum range of RMID = 255\n"
    lines += f'   brand = "{"A CPU of that family":<47}"\n'
    return "".join(quote + line + "\n" for line in lines.splitlines())


@pytest.mark.parametrize(("halves", "quote"), [(False, ""), (True, "> "), (True, "///")])
@pytest.mark.parametrize("name", ["zen2", "zen5", "sapphire-rapids", "alder-lake"])
def test_what_cpuid_prints_without_r_is_the_cpu_too(name, halves, quote):
    text = as_decoded(name, halves, quote)
    one, printed_by = imported_text(text + text.replace("CPU 0:", "CPU 1:").replace("size ", "size is not "))
    assert components_of(one) == components_of(profile(name))
    assert one.standard_size == profile(name).standard_size
    assert (one.vendor, one.signature, printed_by) == (profile(name).vendor, profile(name).signature, "cpuid")
    assert one.title.startswith("A CPU of that family (")
    assert one.features >= {"XSAVE", "XSAVES", "XSAVEC", "AVX", "PKU"}


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("name", ["zen2", "zen5", "sapphire-rapids", "alder-lake"])
def test_what_cpuid_prints_without_r_has_the_registers_of_leaf_0xd_that_it_prints_with_r(name, halves):
    text, registers = as_decoded(name, halves), leaves(name)
    _, found = cpuid_decoded.decoded(text)
    printed = {sub: row for sub, row in registers[13].items() if sub < 2 or row[0]}
    assert found[13] == {sub: tuple(row) for sub, row in printed.items()}
    assert found[1] == {0: (registers[1][0][0], 0, 1 << 26 | 1 << 28, 0)}  # XSAVE and AVX
    guest = re.sub(r"(hypervisor guest status +=) false", r"\1 true", text)
    assert cpuid_decoded.decoded(guest)[1][1][0][2] == found[1][0][2] | 1 << 31
    more = re.sub(r"(IA32_XSS (?:upper 32 bits )?valid bit field mask +=) 0x0{8}", r"\1 0x00000005", text)
    assert cpuid_decoded.decoded(more)[1][13][1][2:] == (registers[13][1][2], 5)


def test_an_excerpt_without_the_features_of_leaf_1_is_of_a_cpu_with_xsave():
    text = as_decoded("sapphire-rapids", halves=False)
    excerpt = "".join(
        line for line in text.splitlines(keepends=True) if "XSAVE/XSTOR" not in line and "AVX:" not in line
    )
    assert components_of(imported_text(excerpt)[0]) == components_of(profile("sapphire-rapids"))
    assert cpuid_decoded.decoded(excerpt)[1][1] == cpuid_decoded.decoded(text)[1][1]
    without_avx = excerpt.replace("= 0x00000000000602e7", "= 0x0000000000000003")
    assert cpuid_decoded.decoded(without_avx)[1][1][0][2] == 1 << 26


@pytest.mark.parametrize(
    ("label", "lost"),
    [
        ("vendor_id", {(0, 0)}),
        ("stepping id", {(1, 0)}),
        ("brand", {(0x80000002 + k, 0) for k in range(3)}),
        ("XSAVEOPT|XSAVEC|XGETBV|XSAVES/XRSTORS|XFD:", {(0xD, 1)}),
        ("PKRU save state byte size", {(0xD, 9)}),
    ],
)
def test_a_register_of_which_cpuid_prints_no_field_is_left_out_and_not_taken_for_zero(label, lost):
    whole = as_decoded("sapphire-rapids", halves=False).replace("(0xd/9):\n      XYZ", "(0xd/9):\n      PKRU")
    lines = whole.splitlines(keepends=True)
    _, found = cpuid_decoded.decoded("".join(line for line in lines if not re.match(rf"\s*(?:{label})", line)))
    left, printed = (
        {(leaf, sub): row for leaf, subs in each.items() for sub, row in subs.items()}
        for each in (found, cpuid_decoded.decoded(whole)[1])
    )
    assert left == {which: row for which, row in printed.items() if which not in lost}
    assert lost < printed.keys()


@pytest.mark.parametrize(
    ("label", "sub", "place"),
    [
        ("bytes required by fields in XCR0", 0, 1),
        ("bytes required by XSAVE/XRSTOR area", 0, 2),
        ("SAVE area size in bytes", 1, 1),
        ("IA32_XSS valid bit field mask", 1, 2),
        ("save state byte offset", 9, 1),
    ],
)
def test_a_field_that_cpuid_does_not_print_is_0_where_its_register_is_kept(label, sub, place):
    lines = as_decoded("sapphire-rapids", halves=False).splitlines(keepends=True)
    _, found = cpuid_decoded.decoded("".join(line for line in lines if label not in line))
    expected = list(leaves("sapphire-rapids")[13][sub])
    expected[place] = 0
    assert found[13][sub] == tuple(expected)


def test_a_brand_of_48_characters_is_in_leaves_80000002h_to_80000004h():
    """Intel SDM vol. 2, CPUID: 16 characters each, in EAX, EBX, ECX and EDX."""
    brand = "".join(map(chr, range(ord("A"), ord("A") + 48)))
    text = re.sub(r'brand = ".*"', lambda _: f'brand = "{brand}"', as_decoded("zen4", halves=False))
    found = cpuid_decoded.decoded(text)[1]
    registers = [word for leaf in (0x80000002, 0x80000003, 0x80000004) for word in found[leaf][0]]
    assert b"".join(word.to_bytes(4, "little") for word in registers).decode() == brand


def test_sysctl_of_an_intel_mac_prints_registers_of_32_bits():
    """In decimal: those of sub-leaves 0 and 1 of leaf 0DH, and leaf 1's EAX."""
    rows = (0xFFFFFFFF, 832, 1088, 0), (15, 832, 0x100, 0xFFFFFFFF)
    text = "".join(
        f"machdep.cpu.xsave.extended_state{sub or ''}: {' '.join(map(str, row))}\n" for sub, row in enumerate(rows)
    )
    for signature in (591594, 0xFFFFFFFF):
        _, found = cpuid_decoded.decoded(text + f"machdep.cpu.signature: {signature}\n")
        assert found == {13: dict(enumerate(rows)), 1: {0: (signature, 0, 1 << 26 | 1 << 28, 0)}}
