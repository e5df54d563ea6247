"""CPU models of hypervisors as guests' feature sets."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.kernel import flows, guest, kvm, process
from sim.kernel.config import Settings, boot
from sim.kernel.cpu_model_files import of_file, of_json
from sim.kernel.cpu_models import FEATURES, MODELS, Offered, components, offered
from sim.kernel.guests import GuestChoice, features
from sim.kernel.kernel import Kernel
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.xsave.area import INIT
from sim.xsave.components import AVX, CET_S, CET_U, FP, SSE, SUPERVISOR

HOST = """
title = "a guest with a CPU model"
[run]
measure = "5 ms"
[host]
cpus = 1
cpu = ["sapphire-rapids"]
[guests.vm]
cpu_model = "Skylake-Server-v5"
[guests.vm.exits.cpuid]
every = "10 kHz"
reason = "cpuid"
"""

T2 = {
    "cpuid_modifiers": [
        {"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
            {"register": "ecx", "bitmap": "0bxxxxxxxxxxxxx0xx00xx00x0000000xx"}]},
        {"leaf": "0x7", "subleaf": "0x0", "flags": 1, "modifiers": [
            {"register": "ebx", "bitmap": "0b00000000000x000000x00x1xxxx0x0xx"},
            {"register": "ecx", "bitmap": "0bx0xxxxxxx0xxxxx0x0x00000x0x0000x"}]},
        {"leaf": "0xd", "subleaf": "0x0", "flags": 1, "modifiers": [
            {"register": "eax", "bitmap": "0bxxxxxxxxxxxxxxxxxxxxxx0x00000xxx"}]},
    ],
    "msr_modifiers": [],
}  # fmt: skip
"""What Firecracker's template T2 (tests/data/custom_cpu_templates/T2.json) says about state components."""


@pytest.mark.parametrize(
    ("model", "mask"),
    [
        ("Nehalem", 0x3), ("Haswell-noTSX-IBRS", 0x7), ("EPYC-Rome-v4", 0x7), ("EPYC-Milan", 0x207),
        ("Skylake-Server-noTSX-IBRS", 0x2E7), ("Icelake-Server-v5", 0x2E7), ("SapphireRapids-v2", 0x602E7),
        ("SapphireRapids,-amx-tile", 0x2E7), ("Skylake-Server-v5,pku=off,-avx512f", 0x7), ("EPYC,+mpx", 0x1F),
        ("EPYC , pku=on", 0x207), ("Denverton", 0x1B), ("Denverton-v3", 0x3), ("Snowridge-v4", 0x3), ("kvm64", 0x3),
        ("Opteron_G5-v1", 0x7), ("KnightsMill", 0xE7), ("host,-xsave", 0x3),
        ("x86-64-v2-AES", 0x3), ("x86-64-v3", 0x7), ("x86-64-v4,flags=+aes;-pcid", 0xE7),
        ("EPYC-Genoa,flags=-pku;-avx512f", 0x7), ("max,amx_tile=off,xsaves=off", 0x2FF),
        ("EPYC-Milan,+xsave,xsaves=off,-avx512vl,+amx-int8,avx2=off,hv_spinlocks=0x1fff,kvm=off,model-id=x", 0x207),
        ("host,migratable=on,+invtsc,-vmx,hv-time,topoext,host-phys-bits-limit=0x28,pku=off,-xsaves", 0x600FF),
        ("SapphireRapids", 0x602E7), ("SapphireRapids-v4", 0x602E7), ("SapphireRapids-v5", 0x61AE7),
        ("SapphireRapids-v6,-cet-ibt", 0x61AE7), ("GraniteRapids-v3", 0x602E7), ("GraniteRapids-v4", 0x61AE7),
        ("SierraForest-v4", 0x1A07), ("ClearwaterForest", 0x207), ("ClearwaterForest-v2", 0x1A07),
        ("SapphireRapids-v5,-cet-ss", 0x60AE7), ("SapphireRapids-v5,-cet-ss,-cet-ibt", 0x602E7),
        ("EPYC-Genoa,+cet-ss", 0x1AE7), ("EPYC,+cet-ibt,+xsaves", 0x807), ("Icelake-Server-v5,+arch-lbr", 0x82E7),
        ("EPYC,+cet-ibt", 0x7), ("Icelake-Server,+arch-lbr", 0x2E7),  # no XSAVES, so no IA32_XSS
        ("max,pku=false", 0x600FF | SUPERVISOR), ("EPYC,pku=yes", 0x207),
        ("EPYC,pku", 0x207), ("EPYC-Milan,pku=off,+pku", 0x207), ("EPYC,-pku,pku=on,+pku", 0x7), ("YongFeng", 0x207),
        ("DiamondRapids", 0x61AE7), ("DiamondRapids-v2,-cet-ss,-cet-ibt", 0x602E7), ("EPYC,xsave", 0x7),
        ("SapphireRapids-v5,xsaves=off", 0x602E7), ("SapphireRapids-v5,-xsave", 0x3),
        ("-cpu EPYC-Milan,model-id=AMD EPYC 7713 64-Core,-pku", 0x7),
        ("SapphireRapids-v5,-xsaves,+xsaves", 0x602E7), ("SapphireRapids,-xfd", 0x2E7), ("EPYC,+xfd", 0x7),
    ],
)  # fmt: skip
def test_a_model_has_the_components_of_its_features(model, mask):
    assert components(model) == mask


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("Skylake-Sever", "did you mean 'Skylake-Server'"),
        ("EPYC,+pku=on", "found '+pku=on'"),
        ("EPYC,+avx1024", "avx1024"),
        ("EPYC,,", "feature of a CPU model"),
        ("Nehalem,+avx512f", "avx512f without avx"),
        ("EPYC,-avx512", "feature of a CPU model"),
        ("EPYC,+pkuu", "did you mean 'pku'"),
        ("EPYC,+a b", "feature of a CPU model"),
        ("", "CPU model"),
        ("GraniteRapids-v0", "CPU model"),  # QEMU counts versions from 1
        ("DiamondRapids-v0", "CPU model"),
        ("custom-mine", "the reported-model and the flags that /etc/pve/virtual-guest/cpu-models.conf has"),
        ("host,-shstk", "unknown feature of a CPU model 'shstk'"),  # the kernel's name
        ("EPYC,+invtsk", "unknown feature of a CPU model 'invtsk'"),
        ("max,pku=1", "found 'pku=1' .allowed: +pku, -pku, pku=on or =off"),
    ],
)
def test_what_is_no_model_is_refused(model, message):
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        components(model)


def test_a_guest_has_what_its_model_and_the_host_both_have():
    config = boot(Settings(cpu="zen4", strategy="no-cet"))
    found = features(config, GuestChoice(components=components("SapphireRapids")))
    assert (found.xcr0, found.pku) == (0x2E7, True)  # the host has no AMX
    found = features(config, GuestChoice(components=components("EPYC-Rome")))
    assert (found.xcr0, found.pku) == (0x7, False)


@pytest.mark.parametrize(
    ("cpu", "kernel", "strategy", "model", "xss", "has_cet"),
    [
        ("sapphire-rapids", "v6.18", "xstate-guest", "SapphireRapids-v4", 0, False),
        ("sapphire-rapids", "v6.18", "xstate-guest", "SapphireRapids-v5", 0x1800, True),
        ("sapphire-rapids", "v6.18", "xstate-guest", "SapphireRapids-v5,-cet-ss", 0x800, False),
        ("sapphire-rapids", "v6.18", "xstate-guest", "host", 0x1800, True),
        ("zen4", "v6.18", "xstate-guest", "EPYC-Genoa", 0, False),
        ("zen4", "v6.18", "xstate-guest", "EPYC-Genoa,+cet-ss", 0x1800, True),
        ("sapphire-rapids", "v6.12", "no-cet", "SapphireRapids-v5", 0, False),  # its KVM offers none
        ("ice-lake-sp", "v6.18", "no-cet", "SapphireRapids-v5", 0, False),  # its CPU has none
        ("sapphire-rapids", "v6.18", "manual-load", "SapphireRapids-v4", 0, False),
    ],
)
def test_cet_of_a_guest_is_what_its_model_has_and_kvm_of_the_kernel_offers(cpu, kernel, strategy, model, xss, has_cet):
    config = boot(Settings(cpu=cpu, kernel=kernel, strategy=strategy))
    choice = GuestChoice(components=components(model))
    assert features(config, choice).xss == xss
    vcpu = Kernel(config).new_vcpu("V", choice)
    assert (vcpu.xss, vcpu.has_cet) == (xss, has_cet)


@pytest.mark.parametrize(("model", "writes"), [("EPYC-Genoa", 2), ("EPYC-Genoa,+cet-ss", 0), ("host", 0)])
def test_on_zen4_a_model_without_cet_costs_two_writes_of_xss_per_exit(model, writes):
    """Host XSS is 1800H on v6.18; a guest without CET never writes it."""
    config = boot(Settings(cpu="zen4", kernel="v6.18"))
    k = Kernel(config)
    (cpu,) = k.cpus
    vcpu = k.new_vcpu("V", GuestChoice(components=components(model)))
    process.schedule(k, cpu, vcpu.task)
    for step in (kvm.kvm_run, kvm.kvm_load_guest_fpu, kvm.kvm_run_entry, kvm.vcpu_enter_guest):
        step(k, cpu)
    before = cpu.ledger.count("WRMSR(XSS)")
    kvm.vm_exit(k, cpu, "cpuid")
    kvm.vcpu_enter_guest(k, cpu)
    assert cpu.ledger.count("WRMSR(XSS)") - before == writes


QEMU = json.loads((Path(__file__).parent / "data" / "qemu-cpu-models.json").read_text())
"""By features that QEMU 11.1.3 says they have (query-cpu-model-expansion, of those that matter here): its models."""


@pytest.mark.parametrize("features_of", QEMU)
def test_every_model_of_qemu_has_the_components_of_the_features_that_qemu_says_it_has(features_of):
    has = set(features_of.split())
    components_of = sum({FEATURES[each] for each in has & {"avx", "mpx", "avx512f", "pku", "amx-tile"}}) + (FP | SSE)
    if "xsaves" in has and "cet-ss" in has:
        components_of |= CET_S | CET_U
    for model in QEMU[features_of].split():
        assert offered(model) == Offered(components_of, "xsave" in has, "xsaves" in has), model


@pytest.mark.parametrize(
    ("cpu", "model", "xsetbv", "xss"),
    [
        ("sapphire-rapids", "Skylake-Server-v5", 2, 2),
        ("sapphire-rapids", "Skylake-Server-v4", 2, 0),  # no XSAVES: vmx_vcpu_after_set_cpuid()
        ("sapphire-rapids", "Skylake-Server-v4,+xsaves", 2, 2),
        ("sapphire-rapids", "Nehalem", 0, 0),  # no XSAVE: CR4.OSXSAVE is clear
        ("zen4", "EPYC-v2", 2, 2),  # SVM cannot forbid XSAVES: svm_vcpu_after_set_cpuid()
        ("zen4", "EPYC-v3", 2, 2),
        ("zen4", "qemu64", 0, 0),
        ("zen4", "qemu64,+xsave", 2, 2),
    ],
)
def test_kvm_switches_xcr0_for_guests_with_xsave_and_xss_for_those_that_may_execute_xsaves(cpu, model, xsetbv, xss):
    """Per exit; the host has AMX or AVX-512 and IA32_XSS, which none of these guests has."""
    choice = offered(model)
    k = Kernel(boot(Settings(cpu=cpu, kernel="v6.18")))
    vcpu = k.new_vcpu("V", GuestChoice(components=choice.components, xsave=choice.xsave, xsaves=choice.xsaves))
    (cpu_0,) = k.cpus
    process.schedule(k, cpu_0, vcpu.task)
    for step in (kvm.kvm_run, kvm.kvm_load_guest_fpu, kvm.kvm_run_entry, kvm.vcpu_enter_guest):
        step(k, cpu_0)
    guest.boots(k, cpu_0)
    guest.writes(k, cpu_0, FP | SSE | AVX)
    before = [cpu_0.ledger.count(each) for each in ("XSETBV", "WRMSR(XSS)")]
    kvm.vm_exit(k, cpu_0, "cpuid")
    kvm.vcpu_enter_guest(k, cpu_0)
    after = [cpu_0.ledger.count(each) for each in ("XSETBV", "WRMSR(XSS)")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [xsetbv, xss]
    held = vcpu.context.regs
    assert (held[2] != INIT) == bool(choice.components & AVX)


@pytest.mark.parametrize("model", ["SapphireRapids-v4", "SapphireRapids-v5"])
def test_a_guest_whose_model_lacks_cet_costs_a_strategy_that_copies_ssps_nothing(model):
    k = Kernel(boot(Settings(strategy="manual-load")))
    vcpu = k.new_vcpu("V", GuestChoice(components=components(model)))
    assert k.guest_has_carried(vcpu) == (model == "SapphireRapids-v5")
    (cpu,) = k.cpus
    process.schedule(k, cpu, vcpu.task)
    for step in (kvm.kvm_run, kvm.kvm_load_guest_fpu, kvm.kvm_run_entry, kvm.vcpu_enter_guest):
        step(k, cpu)
    assert cpu.ledger.count("WRMSR(PL0_SSP)") == (model == "SapphireRapids-v5")


def test_a_model_with_less_than_the_host_makes_kvm_run_xsetbv(tmp_path):
    """As for a guest whose XCR0 the scenario gives: twice per exit."""
    (tmp_path / "host.toml").write_text(HOST)
    (case,) = cases(read(tmp_path / "host.toml"))
    guest = case.scenario.guests["vm"]
    choice = guest.choice
    config = boot(case.settings("no-cet"))
    mine, given = features(config, choice), features(config, GuestChoice(xcr0=0x2E7))
    assert (mine.xcr0, mine.pku, mine.fpstate_size) == (given.xcr0, given.pku, given.fpstate_size)
    assert config.offered_xcr0 & ~features(config, choice).xcr0  # AMX
    operations = [each.operation for each in flows.run("in-kernel-exit", Settings(guest_xcr0=0x2E7)).operations]
    assert operations.count("XSETBV") == 2


@pytest.mark.parametrize(
    ("leaf", "subleaf", "register", "bit", "model"),
    [
        ("0x7", "0x0", "ecx", 7, "host,-cet-ss"),
        ("0xd", "0x1", "ecx", 12, "host,-cet-ss"),
        ("0xd", "0x1", "ecx", 11, "host,-cet-ss,-cet-ibt"),
        ("0x7", "0x0", "edx", 19, "host,-arch-lbr"),
        ("0xd", "0x1", "eax", 3, "host,-xsaves"),
        ("0x1", "0x0", "ecx", 26, "host,-xsave"),
        ("0xd", "0x1", "eax", 4, "host,-amx-tile"),
        ("0x1", "0x0", "ecx", 28, "host,-avx"),
        ("0x7", "0x0", "ebx", 14, "host,-mpx"),
        ("0x7", "0x0", "ebx", 16, "host,-avx512f"),
        ("0x7", "0x0", "ecx", 3, "host,-pku"),
        ("0x7", "0x0", "edx", 24, "host,-amx-tile"),
        ("0xd", "0x0", "eax", 2, "host,-avx"),
        ("0xd", "0x0", "eax", 3, "host,-mpx"),
        ("0xd", "0x0", "eax", 4, "host,-mpx"),
        *(("0xd", "0x0", "eax", bit, "host,-avx512f") for bit in (5, 6, 7)),
        ("0xd", "0x0", "eax", 9, "host,-pku"),
        *(("0xd", "0x0", "eax", bit, "host,-amx-tile") for bit in (17, 18)),
        ("0xd", "0x1", "ecx", 15, "host,-arch-lbr"),
    ],
)
def test_a_template_takes_components_away_by_each_bit(leaf, subleaf, register, bit, model, tmp_path):
    bitmap = "0b" + "".join("0" if each == bit else "x" for each in reversed(range(32)))
    modifiers = [{"register": register, "bitmap": bitmap}]
    template = {"cpuid_modifiers": [{"leaf": leaf, "subleaf": subleaf, "flags": 0, "modifiers": modifiers}]}
    (tmp_path / "t.json").write_text(json.dumps(template))
    assert of_json(str(tmp_path / "t.json")) == model


def test_a_template_of_firecracker_takes_components_away(tmp_path):
    (tmp_path / "T2.json").write_text(json.dumps(T2))
    assert of_json(str(tmp_path / "T2.json")) == "host,-mpx,-avx512f,-pku"
    (tmp_path / "host.toml").write_text(HOST.replace("Skylake-Server-v5", "T2.json"))
    # What is kept is no file's name any more.
    assert read(tmp_path / "host.toml").guests["vm"].cpu_model == "host,-mpx,-avx512f,-pku"
    config = boot(Settings(cpu="ice-lake-sp", kernel="v6.6", strategy="no-cet"))
    choice = read(tmp_path / "host.toml").guests["vm"].choice
    assert features(config, choice).xcr0 == 0x7


STATIC = "host,-mpx,-avx512f,-pku,-xsaves"
"""What {c3,t2,t2a,t2cl,t2s}.rs in static_cpu_templates of Firecracker's commit 81b38b9dad60 take away."""

EXPANSION = {
    "return": {
        "model": {"name": "max", "props": {"avx": True, "avx512f": False, "pku": True, "vmx": True, "family": 6}}
    },
    "id": "libvirt-2",
}


@pytest.mark.parametrize(
    ("document", "model"),
    [
        ({"guest_cpu_config": T2, "kernel_version": "6.1"}, "host,-mpx,-avx512f,-pku"),
        ({"machine-config": {"vcpu_count": 2, "cpu_template": "T2S"}}, STATIC),
        ({"vcpu_count": 2, "cpu_template": "C3"}, STATIC),  # what is put to /machine-config
        ({"machine-config": {"vcpu_count": 2, "cpu_template": "None"}}, "host"),
        ({"machine-config": {"vcpu_count": 2}, "cpu-config": None}, "host"),
        ({"machine-config": {"vcpu_count": 2}, "cpu-config": T2}, "host,-mpx,-avx512f,-pku"),
        ({"msr_modifiers": []}, "host"),
        ({"kvm_capabilities": ["!171"], **T2}, "host,-mpx,-avx512f,-pku"),
        (EXPANSION, "host,-mpx,-avx512f,-amx-tile,-cet-ss,-cet-ibt,-arch-lbr"),
        (EXPANSION["return"], "host,-mpx,-avx512f,-amx-tile,-cet-ss,-cet-ibt,-arch-lbr"),
    ],
)
def test_json_of_firecracker_and_qemu_is_a_model(document, model, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(document))
    assert of_file(str(tmp_path / "model.json")) == model


def test_the_answer_is_found_in_a_session_of_qemu_s_monitor(tmp_path):
    before = '{"QMP": {"version": {}, "capabilities": []}}\n{"return": {}}\n'
    (tmp_path / "session.json").write_text(before + json.dumps(EXPANSION, indent=2) + '\r\n{"event": "RESUME"}\n')
    assert of_json(str(tmp_path / "session.json")) == "host,-mpx,-avx512f,-amx-tile,-cet-ss,-cet-ibt,-arch-lbr"
    (tmp_path / "session.json").write_text(before)
    with pytest.raises(InputError, match=r"has no CPU model \(allowed: .*query-cpu-model-expansion"):
        of_json(str(tmp_path / "session.json"))


DOMAIN = """<domain type='kvm' id='1'><name>vm</name>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>Skylake-Client-IBRS</model>
    <vendor>Intel</vendor>
    <feature policy='require' name='hypervisor'/>
    <feature policy="require" name="avx512f"/>
    <feature name='pku' policy='force'/>
    <feature policy='disable' name='mpx'/>
  </cpu>
</domain>"""

CAPABILITIES = """<domainCapabilities>
  <cpu>
    <mode name='host-passthrough' supported='yes'/>
    <mode name='host-model' supported='yes'>
      <model fallback='forbid'>EPYC-Milan</model>
      <feature policy='disable' name='pku'/>
    </mode>
    <mode name='custom' supported='yes'><model usable='yes'>EPYC</model></mode>
  </cpu>
</domainCapabilities>"""


@pytest.mark.parametrize(
    ("text", "model", "mask"),
    [
        (DOMAIN, "Skylake-Client-IBRS,+avx512f,+pku,-mpx", 0x2E7),
        (CAPABILITIES, "EPYC-Milan,-pku", 0x7),
        ("<cpu mode='host-passthrough' check='none'/>", "host-passthrough", 0x602FF),
        (
            "<cpu><model>SapphireRapids-v5</model><feature policy='disable' name='cet-ss'/></cpu>",
            "SapphireRapids-v5,-cet-ss",
            0x602E7,
        ),
        ("<cpu mode='host-model'><feature policy='forbid' name='xsave'/></cpu>", "host-model,-xsave", 0x3),
        ("<host><cpu><arch>x86_64</arch><model>EPYC</model><feature name='pku'/></cpu></host>", "EPYC,+pku", 0x207),
        ("<!-- not <cpu><model>Nehalem</model></cpu> -->\n" + DOMAIN, "Skylake-Client-IBRS,+avx512f,+pku,-mpx", 0x2E7),
    ],
)
def test_xml_of_libvirt_is_a_model(text, model, mask, tmp_path):
    (tmp_path / "vm.xml").write_text(text)
    assert of_file(str(tmp_path / "vm.xml")) == model
    assert components(model) & ~SUPERVISOR == mask
    (tmp_path / "host.toml").write_text(HOST.replace("Skylake-Server-v5", "vm.xml"))
    assert read(tmp_path / "host.toml").guests["vm"].cpu_model == model


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_file_of_another_encoding_is_the_same_model(encoding, tmp_path):
    (tmp_path / "vm.xml").write_text(DOMAIN + "<!-- caf\xe9 -->", encoding=encoding)
    assert of_file(str(tmp_path / "vm.xml")) == "Skylake-Client-IBRS,+avx512f,+pku,-mpx"
    template = {
        "cpuid_modifiers": [
            {"leaf": "0x7", "subleaf": "0x0", "modifiers": [{"register": "ECX", "bitmap": "0b" + "x" * 28 + "0xxx"}]}
        ]
    }
    (tmp_path / "vm.json").write_text(json.dumps(template), encoding=encoding)
    assert of_file(str(tmp_path / "vm.json")) == "host,-pku"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no <cpu>"), ("<cpu><topology/></cpu>", "neither mode nor <model>"), ("\0" * 9, "has no <cpu>")],
)
def test_xml_without_a_model_is_refused(text, message, tmp_path):
    (tmp_path / "vm.xml").write_text(text)
    with pytest.raises(InputError, match=message):
        of_file(str(tmp_path / "vm.xml"))
    with pytest.raises(InputError, match="cannot read"):
        of_file(str(tmp_path / "none.xml"))


@settings(deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(st.tuples(st.sampled_from("+-"), st.sampled_from(sorted(FEATURES)))))
def test_a_feature_that_is_taken_away_is_gone_whatever_else_is_said_of_it(name, changes):
    model = ",".join([name, "+xsave,+xsaves", *(sign + feature for sign, feature in changes)])
    try:
        found = components(model)
    except InputError:
        return
    gone = {feature for sign, feature in changes if sign == "-"}
    for _, feature in changes:
        sign = "-" if feature in gone else "+"
        if feature == "cet-ibt":  # its component is there with cet-ss, too
            continue
        assert bool(found & (CET_S if feature == "cet-ss" else FEATURES[feature])) == (sign == "+")
    if found & CET_S:
        assert found & CET_U


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no CPU model"),
        ('{"reg_modifiers": []}', "is a CPU template for Arm"),
        ('{"kvm_capabilities": ["171"], "vcpu_features": []}', "is a CPU template for Arm"),
        ('{"machine-config": {"cpu_template": "V1N1"}}', "found cpu_template 'V1N1' .allowed: C3, T2,"),
        ('{"machine-config": {}, "cpu-config": "/etc/t.json"}', "names a CPU template, '/etc/t.json'"),
        ('{"cpuid_modifiers": [{"leaf": "0x7"}]}', "a cpuid_modifier that is none"),
        ('{"name": "vm"}', "has no list 'cpuid_modifiers'"),
        ('{"cpus": {"boot_vcpus": 4}}', "is a configuration of Cloud Hypervisor, which names no CPU model"),
        ('{"cpuid_modifiers": [5]}', "a cpuid_modifier that is none"),
        (
            '{"cpuid_modifiers": [{"leaf": "7", "subleaf": "0", "modifiers": [{"register": "eax", "bitmap": "0x1"}]}]}',
            "a cpuid_modifier that is none",
        ),
    ],
)
def test_what_is_no_template_is_refused(text, message, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=message):
        of_json(str(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Skylake-Server-v5"', '"Skylake-Sever"', "guests.vm.cpu_model"),
        ('"Skylake-Server-v5"', "5", "guests.vm.cpu_model"),
        ('"Skylake-Server-v5"', '"missing.json"', "guests.vm.cpu_model"),
        ('"Skylake-Server-v5"', '"EPYC"\nxcr0 = 7', "guests.vm.cpu_model: found beside xcr0"),
        ('"Skylake-Server-v5"', '"EPYC"\nshadow_stacks = "constant"', "cpu_model 'EPYC' has no cet-ss"),
        (
            '"Skylake-Server-v5"',
            '"EPYC"\nfpu = { components = ["ZMM_Hi256"], every = "1 ms" }',
            "guests.vm.fpu.components: found ZMM_Hi256",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(old, new, message, tmp_path):
    (tmp_path / "host.toml").write_text(HOST.replace(old, new))
    with pytest.raises(InputError) as error:
        cases(read(tmp_path / "host.toml"))
    assert message in str(error.value)


def test_a_domain_that_is_packed_is_refused_with_what_packed_it(tmp_path):
    (tmp_path / "vm.xml").write_bytes(gzip.compress(DOMAIN.encode()))
    says = r"vm\.xml cannot be read: packed by gzip, .* \(allowed: a domain of libvirt, or its capabilities\)"
    with pytest.raises(InputError, match=says):
        of_file(str(tmp_path / "vm.xml"))
