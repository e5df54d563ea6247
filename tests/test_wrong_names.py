"""Scenario files that name what there is not, or that have what does not go together; wrong sweeps, bases and files."""

import pytest
from wrong_scenarios import (
    CPU,
    EXIT,
    GOOD,
    GUEST,
    HOST,
    INTERRUPT,
    KERNEL,
    RUN,
    THREAD,
    TSC,
    also,
    cpu,
    instead,
    judged,
    sweep,
)

WRONG = {
    # names
    "unknown CPU": (cpu("zen44"), "host.cpu", "unknown CPU 'zen44'", "did you mean 'zen4'?"),
    "no CPU": (instead(CPU, "cpu = []"), "host.cpu", "an empty list", "names of CPU profiles"),
    "CPU twice": (instead(CPU, 'cpu = ["zen4", "zen4"]'), "host.cpu", "found 'zen4' twice", "each once"),
    "unknown kernel": (also(HOST, 'kernel = ["v6.188"]'), "host.kernel", "'v6.188'", "did you mean 'v6.18'?"),
    "kernel of a stable release": (also(HOST, 'kernel = ["6.18.35"]'), "host.kernel", "row for it is 'v6.18'"),
    "kernel twice": (also(HOST, 'kernel = ["6.18", "v6.18"]'), "host.kernel", "found 'v6.18' twice", "each once"),
    "unknown strategy": (
        also(RUN, 'strategies = ["xstate-gest"]'),
        "run.strategies", "'xstate-gest'", "'xstate-guest'?",
    ),
    "no strategies": (also(RUN, "strategies = []"), "run.strategies", "an empty list", "names of strategies"),
    "strategy without a list": (also(RUN, 'strategies = "no-cet"'), "run.strategies", "'no-cet'", "all or a list"),
    "strategy twice": (also(RUN, 'strategies = ["no-cet", "no-cet"]'), "run.strategies", "'no-cet' twice", "each once"),
    "strategy file that is not there": (
        also(RUN, 'strategies = ["no.toml"]'),
        "run.strategies", "no.toml", "No such file",
    ),
    "unknown reference": (also(RUN, 'reference = "free"'), "run.reference", "'free'", "did you mean 'free-ssp'?"),
    "unknown cost table": (
        also(HOST, 'costs = { sapphire-rapids = "zen-4" }'),
        "host.costs.sapphire-rapids", "'zen-4'", "'zen4'?",
    ),
    "cost table file that is not there": (
        also(HOST, 'costs = { sapphire-rapids = "no.toml" }'), "host.costs.sapphire-rapids", "no.toml", "a file",
    ),
    "cost table of a CPU that there is not": (
        also(HOST, 'costs = { zen44 = "zen4" }'),
        "host.costs.zen44", "'zen44'", "'zen4'?",
    ),
    "cost table of VMX for guests of SVM": (
        cpu("zen4", also(HOST, 'costs = { zen4 = "intel-amx" }')),
        "host.costs.zen4", "'intel-amx', which lacks a row 'VMSAVE/base'", "zen2, zen3, zen4, zen5, or a file",
    ),
    "cost table of SVM for guests of VMX": (
        also(HOST, 'costs = { sapphire-rapids = "zen4" }'),
        "host.costs.sapphire-rapids", "'zen4', which lacks a row 'VMPTRLD/base'", "intel-amx, sapphire-rapids",
    ),
    "TSC of a CPU that there is not": (
        instead(TSC, 'tsc = { zen6 = "2 GHz" }'), "host.tsc.zen6", "unknown CPU 'zen6'", "did you mean 'zen",
    ),
    "unknown carried state": (also(KERNEL, 'carried = "cet"'), "kernel.carried", "'cet'", "did you mean 'cet-s'?"),
    "unknown component": (
        also(THREAD, 'fpu = { components = ["AVX512"] }'), "threads.daemon.fpu.components[0]", "'AVX512'", "Hi16_ZMM",
    ),
    "unknown reason": (also(EXIT, 'reason = "wrmsr-irc"'), "io.reason", "'wrmsr-irc'", "did you mean 'wrmsr-icr'?"),
    "unknown value": (also(EXIT, 'handled = "kernal"'), "io.handled", "found 'kernal'", "did you mean 'kernel'?"),
    "unknown MSR": (also(KERNEL, 'guest_uret_msrs = ["LSTR"]'), "kernel.guest_uret_msrs", "'LSTR'", "'LSTAR'?"),
    # what the CPU or the kernel lacks
    "CET on Skylake-SP": (
        cpu("skylake-sp", also(RUN, 'strategies = ["free-ssp"]')),
        "run.strategies", "skylake-sp has no supervisor shadow stacks", "only no-cet",
    ),
    "shadow stacks of a guest on Skylake-SP": (
        cpu("skylake-sp", also(GUEST, 'shadow_stacks = "constant"')),
        "guests.web.shadow_stacks", "found 'constant', which skylake-sp lacks", "allowed: 'none'",
    ),
    "XSS of guests on Skylake-SP": (
        cpu("skylake-sp", also(KERNEL, "guest_xss = 0x800")),
        "kernel.guest_xss", "found 0x800, and skylake-sp has no CET", "allowed: 0",
    ),
    "CET on v6.6": (
        also(RUN, 'strategies = ["xstate-guest"]').replace(HOST, HOST + '\nkernel = ["v6.6"]'),
        "run.strategies", "no CET for guests", "no-cet",
    ),
    "MSR lists on AMD": (
        cpu("zen4", also(RUN, 'strategies = ["msr-autoload"]')),
        "run.strategies", "SVM", "hypothetical",
    ),
    "WRMSRNS where there is none": (
        also(KERNEL, 'msr_access = "wrmsrns"'),
        "kernel.msr_access", "WRMSRNS", "hypothetical",
    ),
    "AMX guests on Zen 4": (
        cpu("zen4", also(KERNEL, "guest_amx = true")),
        "kernel.guest_amx", "zen4 has no AMX", "true",
    ),
    "AMX in a thread on Zen 4": (
        cpu("zen4", also(THREAD, 'fpu = { components = ["XTILEDATA"] }')),
        "threads.daemon.fpu.components", "XTILEDATA, which zen4 lacks", "allowed: FP, SSE",
    ),
    "AVX-512 on Zen 3": (
        cpu("zen3", also(GUEST, 'fpu = { components = ["OPMASK"], every = "1 ms" }')),
        "guests.web.fpu.components", "OPMASK, which zen3 lacks", "allowed: FP, SSE, AVX",
    ),
    "AMX without guest_amx": (
        also(GUEST, 'fpu = { components = ["XTILEDATA"], every = "1 ms" }'),
        "guests.web.fpu.components", "found XTILEDATA", "kernel.guest_amx = true",
    ),
    "tiles in kernel_fpu_begin()": (
        also(INTERRUPT, 'components = ["XTILEDATA"]'), "interrupts.network.components", "XTILEDATA", "kernel_fpu_begin",
    ),
    "kernel_fpu_begin() without components": (
        also(INTERRUPT, "kernel_fpu = 0.5\ncomponents = []"),
        "interrupts.network.components", "found none", "one component or more",
    ),
    "XSS that KVM does not offer": (also(KERNEL, "guest_xss = 0x4"), "kernel.guest_xss", "0x4", "bits of 0x1800"),
    "XCR0 that the host has not": (
        also(KERNEL, "guest_xcr0 = 0x8000000000001"), "kernel.guest_xcr0", "0x8000000000001", "bits of",
    ),
    "XCR0 without x87": (also(KERNEL, "guest_xcr0 = 0x2"), "kernel.guest_xcr0", "found 0x2", "bit 0"),
    "XCR0 of 0": (also(KERNEL, "guest_xcr0 = 0"), "kernel.guest_xcr0", "0x0", "bit 0"),
    "AVX without SSE": (also(KERNEL, "guest_xcr0 = 0x5"), "kernel.guest_xcr0", "found 0x5", "SSE"),
    "half of AVX-512": (also(KERNEL, "guest_xcr0 = 0x27"), "kernel.guest_xcr0", "found 0x27", "5 to 7 together"),
    "tiles without guest_amx": (
        also(KERNEL, "guest_xcr0 = 0x60007"), "kernel.guest_xcr0", "found 0x60007", "guest_amx = true",
    ),
    "use of what XCR0 lacks": (
        also(KERNEL, "guest_xcr0 = 0x3").replace(
            GUEST, GUEST + '\nfpu = { components = ["AVX"], every = "1 ms" }'
        ),
        "guests.web.fpu.components", "found AVX", "kernel.guest_xcr0 = 0x3",
    ),
    "XSS of guests beyond the offered": (
        also(KERNEL, "guest_xss = 0x800").replace(GUEST, GUEST + "\nxss = 0x1800"),
        "guests.web.xss", "found 0x1800", "bits of 0x800",
    ),
    "user-return MSR that SVM has not": (
        cpu("zen4", also(KERNEL, 'guest_uret_msrs = ["LSTAR"]')), "kernel.guest_uret_msrs", "'LSTAR'", "TSC_AUX",
    ),
    # what does not go together
    "nobody there": (GOOD[: GOOD.index("[guests.web]")], "guests", "neither guests nor threads", "at least one kind"),
    "CPU that is not there": (also(THREAD, "affinity = [0, 4]"), "threads.daemon.affinity", "found CPU 4", "0 to 3"),
    "negative CPU": (also(THREAD, "affinity = [-1]"), "threads.daemon.affinity[0]", "found -1", "0 or more"),
    "no CPU to run on": (also(GUEST, "affinity = []"), "guests.web.affinity", "an empty list", "'pinned'"),
    "affinity misspelt": (also(GUEST, 'affinity = "pined"'), "guests.web.affinity", "found 'pined'", "'pinned'?"),
    "IPI without another vCPU": (
        instead(GUEST, "vcpus = 1").replace(EXIT, EXIT + '\neffect = "ipi"'),
        "guests.web.exits.io.effect", "found 'ipi' in a VM with one vCPU", "2 or more",
    ),
    "demand without requests": (
        also(GUEST, 'demand = "1 ms"'),
        "guests.web.demand", "arrivals (open)", "sleep (closed)",
    ),
    "requests without demand": (also(GUEST, 'arrivals = "1 kHz"'), "guests.web.arrivals", "demand", "missing"),
    "sleep without demand": (also(GUEST, 'sleep = "1 ms"'), "guests.web.sleep", "demand", "missing"),
    "open and closed": (
        also(GUEST, 'demand = "1 ms"\narrivals = "1 kHz"\nsleep = "1 ms"'),
        "guests.web.sleep", "beside arrivals", "not both",
    ),
    "signals to vCPUs that never halt": (
        also(GUEST, 'signalled = 0.5\nsignal_time = "1 us"'), "guests.web.signalled", "goes with demand", "halt",
    ),
    "signals that take nobody knows how long": (
        also(GUEST, 'demand = "1 ms"\nsleep = "1 ms"\nsignalled = 0.5'),
        "guests.web.signal_time", "is missing", "both or neither",
    ),
    "signals without their rate": (
        also(GUEST, 'demand = "1 ms"\nsleep = "1 ms"\nsignal_time = "1 us"'),
        "guests.web.signalled", "is missing", "both or neither",
    ),
    "guests and threads of one name that wait": (
        also(GUEST, 'demand = "1 ms"\nwaits = { share = 1.0 }').replace("threads.daemon", "threads.web").replace(
            THREAD, THREAD + "\nwakes = { web = 1.0 }"
        ),
        "guests.web.waits", "both called 'web'", "different names",
    ),
    "VMM where KVM handles": (
        also(EXIT, 'vmm = "1 us"'),
        "guests.web.exits.io.vmm", "'userspace'", "here it is 'kernel'",
    ),
    "user space for the fastpath": (
        also(EXIT, 'handled = "userspace"\nreason = "invd"'), "guests.web.exits.io.reason", "found 'invd'", "io",
    ),
    "rewritten without switches": (
        also(GUEST, 'shadow_stacks = "rewritten"'), "guests.web.shadow_stacks", "found 'rewritten'", "task_switch",
    ),
    "shadow stacks without CET": (
        instead(KERNEL, "guest_cet = false").replace(GUEST, GUEST + '\nshadow_stacks = "constant"'),
        "guests.web.shadow_stacks", "found 'constant'", "guest_cet = true",
    ),
    "rewritten without XSS[12]": (
        also(KERNEL, "guest_xss = 0x800").replace(
            GUEST, GUEST + '\nshadow_stacks = "rewritten"\ntask_switch = "1 kHz"'
        ),
        "kernel.guest_xss", "found 0x800", "bit 12",
    ),
    "FPU use that never happens": (
        also(GUEST, 'fpu = { components = ["AVX"] }'), "guests.web.fpu.components", "fpu.every", "task_switch",
    ),
    "writes of nothing": (also(GUEST, 'fpu = { every = "1 ms" }'), "guests.web.fpu.every", "fpu.components", "missing"),
    "FPU of a kernel thread": (
        also(THREAD, 'kind = "kthread"\nfpu = { components = ["AVX"] }'),
        "threads.daemon.fpu.components", "kthread", "none",
    ),
    "intervals of a thread's writes": (
        also(THREAD, 'fpu = { components = ["AVX"], every = "1 ms" }'),
        "threads.daemon.fpu.every", "is for guests", "share",
    ),
    "pipe that sleeps": (also(THREAD, 'kind = "pipe"\nsleep = "1 ms"'), "threads.daemon.sleep", "'pipe'", "hands over"),
    "pipe that takes no time": (
        instead(THREAD, 'kind = "pipe"\ncompute = "0 us"\nsyscall = "0 us"'),
        "threads.daemon.compute", "found 0 beside syscall = 0", "takes time",
    ),
    "fork that never waits": (also(THREAD, 'kind = "fork"'), "threads.daemon.sleep", "the key is missing", "'fork'"),
    "burst of 0": (instead(THREAD, 'compute = "0 ms"'), "threads.daemon.compute", "a mean of 0", "more than 0"),
    "exec of a compute thread": (also(THREAD, "exec = false"), "threads.daemon.exec", "'fork'", "here it is 'compute'"),
    # sweep
    "sweep of a key that there is not": (
        sweep('"guests.web.vcpu" = [1]'), "sweep.'guests.web.vcpu'", "unknown key 'vcpu'", "did you mean 'vcpus'?",
    ),
    "sweep in a table that there is not": (
        sweep('"guests.wbe.vcpus" = [1]'), "sweep.'guests.wbe.vcpus'", "unknown key 'wbe'", "did you mean 'web'?",
    ),
    "sweep below a value": (sweep('"host.hz.x" = [1]'), "sweep.'host.hz.x'", "host.hz is not a table", "'x'"),
    "sweep with a value that does not fit": (
        sweep('"guests.web.vcpus" = [2, "x"]'), "sweep.'guests.web.vcpus'", "found 'x'", "a whole number",
    ),
    "sweep with a value that does not go with others": (
        sweep('"host.cpus" = [2, 4]').replace(THREAD, THREAD + "\naffinity = [3]"),
        "threads.daemon.affinity", "found CPU 3", "host.cpus=2",
    ),
    "sweep without values": (sweep('"host.hz" = []'), "sweep.'host.hz'", "an empty list", "one value or more"),
    "sweep without a list": (sweep('"host.hz" = 250'), "sweep.'host.hz'", "found 250", "a list"),
    "sweep of what all cases share": (
        sweep('"run.seed" = [1, 2]'),
        "sweep.'run.seed'", "run.seed cannot be swept", "host.cpu",
    ),
    "sweep with a value twice": (
        sweep('"host.hz" = [250, 250]'),
        "sweep", "host.hz=250' is there twice", "each value once",
    ),
    "sweep without end": (
        sweep("\n".join(f'"guests.web.{key}" = [{", ".join(map(str, range(1, 41)))}]' for key in ("vms", "vcpus"))),
        "sweep", "makes 1600 cases", "1000 at most",
    ),
    # extends
    "base that is not there": (f'extends = "no.toml"\n{GOOD}', "extends", "found 'no.toml'", "there is no file"),
    "base that is not shipped": (
        f'extends = "rfc-qestion"\n{GOOD}', "extends", "unknown scenario 'rfc-qestion'", "did you mean 'rfc-question'?",
    ),
    "base that is no path": (f"extends = 3\n{GOOD}", "extends", "found 3", "the path of a scenario file"),
    "file that extends itself": (
        f'extends = "wrong.toml"\n{GOOD}',
        "extends", "extends itself", "wrong.toml extends wrong.toml",
    ),
    "base in a circle": (
        f'extends = "circle.toml"\n{GOOD}',
        "extends", "wrong.toml extends circle.toml extends", "itself",
    ),
    # files
    "empty file": ("", "wrong.toml", "the file is empty", "title, run, host"),
    "only comments": ("# nothing\n", "wrong.toml", "the file is empty", "title, run, host"),
    "a key of two other tables": (
        also(KERNEL, 'halt_poll = "1 us"'), "kernel.halt_poll", "halt_poll is a key of [host] and [guests.NAME]",
    ),
    "extends in a table": (
        f'{GOOD}\nextends = "x"\n', "interrupts.network.extends", "is a key of the file itself, before its first [",
    ),
    "guests without a name": (GOOD.replace("guests.web", "guests"), "guests.vcpus", "vcpus is a key of [guests.NAME]"),
    "an exit without a name": (
        GOOD.replace("exits.io", "exits"), "guests.web.exits.every", "every is a key of [guests.web.exits.NAME]",
    ),
    "names in one text": (also(RUN, 'strategies = "a, b"'), "run.strategies", "such as ['a', 'b']"),
    "a text where names are no values": (also(KERNEL, 'mitigations = "off"'), "kernel.mitigations", "a list in [ ]\n"),
    "no groups": (also(GUEST, 'group = "g"'), "guests.web.group", "unknown group 'g'; there is none"),
    "a wake of none": (also(EXIT, "wakes = { daemon = 0 }"), "guests.web.exits.io.wakes.daemon", "found 0", "above 0"),
    "not TOML": (instead(HOST, "cpus: 4"), "wrong.toml", "not TOML", "line 8"),
    "a key twice": (also(HOST, "cpus = 5"), "wrong.toml", "not TOML", "line 9"),
    "not text": (b"title = \"\xff\xfe\"", "wrong.toml", "not UTF-8 text", "line 1"),
    "a program": (b"\x7fELF\x02\x01\x01\0\xf0", "wrong.toml", "not UTF-8 text", "a scenario file (TOML)"),
    "nested without end": (f"a = {'[' * 5000}{']' * 5000}\n", "wrong.toml", "nested too deeply", "TOML"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_one_line_with_the_path_what_was_found_and_what_is_allowed(wrong, folder, capsys):
    judged(WRONG[wrong], folder, capsys)
