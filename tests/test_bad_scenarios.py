"""Wrong scenario files: one line that names the path, what was found and what is allowed, and exit status 2."""

import tempfile
import tomllib
from pathlib import Path

import pytest
import tomlkit
from command import run
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.scenario.reading import read

GOOD = """
title = "good"

[run]
measure = "10 ms"

[host]
cpus = 4
cpu = ["sapphire-rapids"]
tsc = "2 GHz"

[kernel]
guest_cet = true

[guests.web]
vcpus = 2

[guests.web.exits.io]
every = "20 kHz"

[threads.daemon]
compute = "1 ms"

[interrupts.network]
every = "1 kHz"
time = "1 us"
"""

RUN, HOST, KERNEL = 'measure = "10 ms"', "cpus = 4", "guest_cet = true"
GUEST, EXIT, THREAD, INTERRUPT = "vcpus = 2", 'every = "20 kHz"', 'compute = "1 ms"', 'time = "1 us"'
CPU, TSC = 'cpu = ["sapphire-rapids"]', 'tsc = "2 GHz"'


def instead(old, new):
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def also(old, line):
    return instead(old, f"{old}\n{line}")


def cpu(name, text=GOOD):
    return text.replace("sapphire-rapids", name)


def sweep(line):
    return f"{GOOD}\n[sweep]\n{line}\n"


WRONG = {
    # keys
    "unknown key": (also(RUN, 'mesure = "1 s"'), "run.mesure", "unknown key", "did you mean 'measure'?"),
    "misspelt key that is required": (instead(EXIT, 'evry = "20 kHz"'), "guests.web.exits.io.evry", "'every'?", "vmm"),
    "misspelt table": (GOOD.replace("guests.", "guest."), "guest:", "unknown key 'guest'", "'guests'?"),
    "misspelt table in a table": (GOOD.replace(".exits.", ".exit."), "guests.web.exit:", "'exit'", "'exits'?"),
    "missing key": (instead(RUN, ""), "run.measure", "the key is missing", "simulated time"),
    "missing table": (GOOD.replace("[run]", "").replace(RUN, ""), "run:", "the key is missing", "how often"),
    "a key of a guest in a thread": (also(THREAD, "vcpus = 2"), "threads.daemon.vcpus", "unknown key 'vcpus'", "count"),
    "a name with a blank": (GOOD.replace("threads.daemon", 'threads."a b"'), "threads.'a b'", "found 'a b'", "letters"),
    # types
    "text for a number": (instead(GUEST, 'vcpus = "2"'), "guests.web.vcpus", "found '2'", "a whole number"),
    "fraction for a number": (instead(GUEST, "vcpus = 2.5"), "guests.web.vcpus", "found 2.5", "a whole number"),
    "switch for a number": (instead(HOST, "cpus = true"), "host.cpus", "found true", "a whole number"),
    "number for a switch": (instead(KERNEL, "guest_cet = 1"), "kernel.guest_cet", "found 1", "true or false"),
    "text for a list": (instead(CPU, 'cpu = "zen4"'), "host.cpu", "found 'zen4'", "a list"),
    "text for a table": ('title = "t"\nrun = "x"\n', "run", "found 'x'", "a table"),
    "list for a table": (GOOD.replace("[kernel]", "[[kernel]]"), "kernel", "a list of tables", "a table"),
    "number for a text": (instead('title = "good"', "title = 3"), "title", "found 3", "a text in quotes"),
    "two lines of title": (instead('"good"', '"a\\nb"'), "title", "found 'a\\nb'", "one line of text"),
    "an escape sequence in the question": (
        instead('title = "good"', 'title = "good"\nquestion = "a\\u001b[31mRED\\u001b]0;x\\u0007"'),
        "question", "found 'a\\x1b[31mRED\\x1b]0;x\\x07'", "without control characters",
    ),
    "requests that take no time": (
        GOOD.replace(HOST, HOST + '\ninterrupt_time = "0 ns"').replace(
            GUEST, GUEST + '\ndemand = "1 us"\narrivals = "0.2 ns"'
        ),
        "guests.web.arrivals", "together take", "less than 100%",
    ),
    "interrupts that take no time": (
        GOOD.replace(HOST, HOST + '\ninterrupt_time = "0 ns"').replace(
            'every = "1 kHz"\ntime = "1 us"', 'every = "1 GHz"\ntime = "0 ns"'
        ),
        "interrupts.network.time", "together take", "less than 100%",
    ),
    "bursts of less than a cycle": (
        instead(TSC, 'tsc = "1 MHz"').replace(THREAD, 'kind = "kthread"\ncompute = "400 ns"'),
        "threads.daemon.compute", "found 400 ns a burst", "1 us (1 MHz) or more without sleep",
    ),
    "bursts without end": (
        instead(THREAD, 'compute = { exponential = "1 ns" }'),
        "threads.daemon.compute", "found 1 ns a burst", "100 ns (10 MHz) or more without sleep",
    ),
    "task switches without end": (
        also(GUEST, 'task_switch = "1 ns"'), "guests.web.task_switch", "found '1 ns'", "100 ns (10 MHz) or more",
    ),
    "exits without end": (
        instead(EXIT, 'every = "100 MHz"'), "guests.web.exits.io.every", "found a mean of 10 ns", "100 ns (10 MHz)",
    ),
    "writes without end": (
        also(GUEST, 'fpu = { components = ["AVX"], every = "1 ns" }'), "guests.web.fpu.every", "'1 ns'", "100 ns",
    ),
    "date": (instead(GUEST, "vcpus = 2024-01-01"), "guests.web.vcpus", "found '2024-01-01'", "a whole number"),
    # bounds
    "no vCPU": (instead(GUEST, "vcpus = 0"), "guests.web.vcpus", "found 0", "1 to 65536"),
    "too many vCPUs in all": (also(GUEST, "vms = 65536"), "guests", "found 131073", "65536 at most"),
    "nice out of range": (also(THREAD, "nice = 20"), "threads.daemon.nice", "found 20", "-20 to 19"),
    "share above 1": (also(EXIT, "kernel_fpu = 1.5"), "guests.web.exits.io.kernel_fpu", "found 1.5", "0 to 1"),
    "share that is no number": (also(EXIT, "kernel_fpu = nan"), "io.kernel_fpu", "found nan", "0 to 1"),
    "no replications": (also(RUN, "replications = 0"), "run.replications", "found 0", "1 to 100000"),
    "replications beside precision": (
        also(RUN, 'replications = 3\nprecision = "2 %"'), "run.precision", "beside replications", "one or the other",
    ),
    "replications beside their bounds": (
        also(RUN, "replications = 3\nmax_replications = 5"), "run.max_replications", "beside replications", "exact",
    ),
    "precision of 0": (also(RUN, 'precision = "0 %"'), "run.precision", "found '0 %'", "a share above 0"),
    "precision without unit": (also(RUN, "precision = 0.02"), "run.precision", "found 0.02", "a share like '2 %'"),
    "precision of the whole and more": (also(RUN, 'precision = "101 %"'), "run.precision", "'101 %'", "at most 100 %"),
    "more replications at least than at most": (
        also(RUN, "min_replications = 30\nmax_replications = 20"), "run.min_replications", "found 30", "which is 20",
    ),
    "more replications at least than the default has at most": (
        also(RUN, "min_replications = 101"), "run.min_replications", "found 101", "which is 100",
    ),
    "no replication at least": (also(RUN, "min_replications = 0"), "run.min_replications", "found 0", "1 to 100000"),
    "a time that is a share": (also(RUN, 'warmup = "2 %"'), "run.warmup", "found '2 %'", "a time like"),
    "timed by nobody": (also(RUN, 'timed_by = "free-sp"'), "run.timed_by", "'free-sp'", "did you mean 'free-ssp'?"),
    "timed by the empty name": (also(RUN, 'timed_by = ""'), "run.timed_by", "found ''", "the name of a strategy"),
    "contrast that is no pair": (also(RUN, 'contrasts = ["a", "b"]'), "run.contrasts[0]", "found 'a'", "a list"),
    "contrast of one": (
        also(RUN, 'contrasts = [["no-cet"]]'), "run.contrasts[0]", "found ['no-cet']", "a list of 2 or more",
    ),
    "contrast of three": (
        also(RUN, 'contrasts = [["no-cet", "free-ssp", "xstate-all"]]'), "run.contrasts[0]", "found", "up to 2",
    ),
    "contrast with an unknown strategy": (
        also(RUN, 'contrasts = [["no-cet", "xstate-gest"]]'), "run.contrasts", "'xstate-gest'", "'xstate-guest'?",
    ),
    "contrast with itself": (
        also(RUN, 'contrasts = [["no-cet", "no-cet"]]'), "run.contrasts[0]", "'no-cet' twice", "two that differ",
    ),
    "a contrast the other way round": (
        also(RUN, 'contrasts = [["no-cet", "free-ssp"], ["free-ssp", "no-cet"]]'),
        "run.contrasts[1]", "a second time", "each pair once",
    ),
    "contrast with a case on one side": (
        also(RUN, 'contrasts = [["no-cet@sapphire-rapids v6.18", "free-ssp"]]'),
        "run.contrasts[0]", "'no-cet@sapphire-rapids v6.18'", "without a case", "for both or none",
    ),
    "contrast in a case that there is not": (
        also(RUN, 'contrasts = [["no-cet@sapphire-rapids v6.18", "no-cet@sapphire-rapids v6.19"]]'),
        "run.contrasts[0]", "unknown case 'sapphire-rapids v6.19'", "did you mean 'sapphire-rapids v6.18'?",
    ),
    "contrast that is possible nowhere": (
        also(RUN, 'contrasts = [["no-cet", "free-ssp"]]').replace(HOST, HOST + '\nkernel = ["v6.6"]'),
        "run.contrasts[0]", "strategy free-ssp on v6.6", "no-cet",
    ),
    "contrast that is impossible in the case that it names": (
        also(RUN, 'contrasts = [["no-cet@sapphire-rapids v6.18", "free-ssp@sapphire-rapids v6.6"]]').replace(
            HOST, HOST + '\nkernel = ["v6.18", "v6.6"]'
        ),
        "run.contrasts", "strategy free-ssp on v6.6", "no-cet",
    ),
    "a case that there is not": (
        also(RUN, 'cases = ["sapphire-rapids"]'), "run.cases[0]", "unknown case 'sapphire-rapids'", "v6.18'?",
    ),
    "no case": (also(RUN, "cases = []"), "run.cases", "an empty list", "names of cases"),
    "negative seed": (also(RUN, "seed = -1"), "run.seed", "found -1", "0 or more"),
    "measure of 0": (instead(RUN, 'measure = "0 ms"'), "run.measure", "found '0 ns'", "a time above 0"),
    "HZ that no kernel has": (also(HOST, "hz = 200"), "host.hz", "found 200", "100, 250, 300, 1000"),
    "base slice of an hour": (also(HOST, 'base_slice = "60 min"'), "host.base_slice", "'3600 s'", "1 us to 10 s"),
    "no L1": (also(HOST, 'l1 = "0 B"'), "host.l1", "found 0", "more than 0"),
    # units
    "time without a unit": (instead(RUN, "measure = 0.01"), "run.measure", "found 0.01", "'2 ms'"),
    "time in a text without a unit": (instead(RUN, 'measure = "10"'), "run.measure", "found '10'", "ns, us, ms"),
    "unit in capitals": (instead(RUN, 'measure = "10 MS"'), "run.measure", "found '10 MS'", "ns, us, ms"),
    "negative time": (instead(THREAD, 'compute = "-1 ms"'), "threads.daemon.compute", "found '-1 ms'", "'2 ms'"),
    "time beyond an hour": (instead(RUN, 'measure = "61 min"'), "run.measure", "found '61 min'", "at most 60 min"),
    "rate for a time": (instead(RUN, 'measure = "1 kHz"'), "run.measure", "found '1 kHz'", "a time like"),
    "rate for a duration": (instead(THREAD, 'compute = "1 kHz"'), "threads.daemon.compute", "'1 kHz'", "no meaning"),
    "time for a rate": (instead(TSC, 'tsc = "2 ms"'), "host.tsc", "found '2 ms'", "kHz, MHz, GHz"),
    "size for a flow": (also(THREAD, 'touches = "1 MiB"'), "threads.daemon.touches", "found '1 MiB'", "MB/s"),
    "rate of 0": (instead(EXIT, 'every = "0 Hz"'), "guests.web.exits.io.every", "found '0 Hz'", "a rate above 0"),
    "TSC that is too slow": (instead(TSC, 'tsc = "1 kHz"'), "host.tsc", "found '1 kHz'", "1 MHz or more"),
    "TSC of one profile that is too slow": (
        instead(TSC, 'tsc = { sapphire-rapids = "1 kHz" }'), "host.tsc.sapphire-rapids", "found '1 kHz'", "1 MHz",
    ),
    "TSC of a profile misspelt": (
        instead(TSC, 'tsc = { saphire-rapids = "2 GHz" }'), "host.tsc.saphire-rapids", "CPU", "'sapphire-rapids'?",
    ),
    "interrupts without end": (
        instead(INTERRUPT, 'time = "1 ms"'), "interrupts.network.time", "take 100% of a CPU", "less than 100%",
    ),
    "ticks without end": (also(HOST, 'interrupt_time = "5 ms"'), "host.interrupt_time", "take 125%", "less than 100%"),
    "requests without end": (
        also(GUEST, 'demand = "1 us"\narrivals = "2 MHz"'), "guests.web.arrivals", "take 100% of a CPU", "less",
    ),
    "warm-up misspelt": (also(RUN, 'warmup = "atuo"'), "run.warmup", "found 'atuo'", "'auto'?"),
    # distributions
    "unknown distribution": (
        instead(EXIT, 'every = { exponental = "1 ms" }'),
        "io.every", "'exponental'", "'exponential'?",
    ),
    "lognormal without sigma": (
        instead(EXIT, 'every = { lognormal = "1 ms" }'),
        "io.every", "found {lognormal = '1 ms'}", "sigma",
    ),
    "negative sigma": (
        instead(EXIT, 'every = { lognormal = "1 ms", sigma = -1 }'), "io.every", "sigma = -1}", "above 0",
    ),
    "lognormal with a mean of 0": (
        instead(EXIT, 'every = { lognormal = "0 ms", sigma = 1 }'), "io.every", "sigma = 1}", "a mean above 0",
    ),
    "two distributions": (
        instead(EXIT, 'every = { constant = "1 ms", exponential = "1 ms" }'),
        "io.every", "found {constant", "one of constant, exponential",
    ),
    "mean of 0": (
        instead(EXIT, 'every = { exponential = "0 ms" }'),
        "guests.web.exits.io.every", "a mean of 0", "more",
    ),
    "no CSV file": (
        instead(THREAD, 'compute = { empirical = "no.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "no.csv: No such file", "a CSV file",
    ),
    "CSV file of more than is read": (
        instead(THREAD, 'compute = { empirical = "/dev/zero", column = "t", unit = "us" }'),
        "threads.daemon.compute", "/dev/zero: more than 32 MiB", "a CSV file",
    ),
    "CSV file with a quotation that does not end": (
        instead(THREAD, 'compute = { empirical = "open.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "open.csv:", "is not (unexpected end of data)", "a CSV file",
    ),
    "samples without their unit": (
        instead(THREAD, 'compute = { empirical = "good.csv", column = "t" }'),
        "threads.daemon.compute", "empirical with unit", "unit = 'us'",
    ),
    "column by its number": (
        instead(THREAD, 'compute = { empirical = "good.csv", column = 1, unit = "us" }'),
        "threads.daemon.compute", "column = 1", "empirical with column as a text in quotes",
    ),
    "no such column": (
        instead(THREAD, 'compute = { empirical = "good.csv", column = "tt", unit = "us" }'),
        "threads.daemon.compute", "unknown column 'tt'", "did you mean 't'?",
    ),
    "column that is there twice": (
        instead(THREAD, 'compute = { empirical = "twice.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "twice.csv has 2 called 't'", "a column that is there once",
    ),
    "row that is too short": (
        instead(THREAD, 'compute = { empirical = "short.csv", column = "u", unit = "us" }'),
        "threads.daemon.compute", "short.csv:2 has 'nothing'", "numbers",
    ),
    "no such unit of a column": (
        instead(THREAD, 'compute = { empirical = "good.csv", column = "t", unit = "usec" }'),
        "threads.daemon.compute", "unknown unit 'usec'", "'us'?",
    ),
    "text in a column": (
        instead(THREAD, 'compute = { empirical = "text.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "text.csv:3 has 'x'", "numbers",
    ),
    "NaN in a column": (
        instead(THREAD, 'compute = { empirical = "nan.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "nan.csv:2 has 'nan'", "numbers from 0",
    ),
    "negative number in a column": (
        instead(THREAD, 'compute = { empirical = "negative.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "negative.csv:2 has '-1'", "numbers from 0",
    ),
    "column without samples": (
        instead(THREAD, 'compute = { empirical = "empty.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "none below its header", "samples",
    ),
    "column that is not text": (
        instead(THREAD, 'compute = { empirical = "binary.csv", column = "t", unit = "us" }'),
        "threads.daemon.compute", "binary.csv is not", "UTF-8",
    ),
    # names
    "unknown CPU": (cpu("zen44"), "host.cpu", "unknown CPU 'zen44'", "did you mean 'zen4'?"),
    "no CPU": (instead(CPU, "cpu = []"), "host.cpu", "an empty list", "names of CPU profiles"),
    "CPU twice": (instead(CPU, 'cpu = ["zen4", "zen4"]'), "host.cpu", "found 'zen4' twice", "each once"),
    "unknown kernel": (also(HOST, 'kernel = ["v6.188"]'), "host.kernel", "'v6.188'", "did you mean 'v6.18'?"),
    "kernel without its v": (also(HOST, 'kernel = ["6.18"]'), "host.kernel", "row for it is 'v6.18'"),
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
    "not TOML": (instead(HOST, "cpus: 4"), "wrong.toml", "not TOML", "line 8"),
    "a key twice": (also(HOST, "cpus = 5"), "wrong.toml", "not TOML", "line 9"),
    "not text": (b"title = \"\xff\xfe\"", "wrong.toml", "not UTF-8 text", "line 1"),
    "a program": (b"\x7fELF\x02\x01\x01\0\xf0", "wrong.toml", "not UTF-8 text", "a scenario file (TOML)"),
    "nested without end": (f"a = {'[' * 5000}{']' * 5000}\n", "wrong.toml", "nested too deeply", "TOML"),
}  # fmt: skip

FILES = {
    "good.csv": b"t\n1\n",
    "twice.csv": b"t,t\n1,2\n",
    "short.csv": b"t,u\n1\n",
    "text.csv": b"t\n1\nx\n",
    "nan.csv": b"t\nnan\n",
    "negative.csv": b"t\n-1\n",
    "empty.csv": b"t\n",
    "open.csv": b't\n"1\n',
    "binary.csv": b"t\n\xff\n",
    "circle.toml": b'extends = "wrong.toml"\n',
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys, *arguments):
    """The message of a command that refuses its input, and nothing else."""
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("fpswitch: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_the_file_that_the_wrong_ones_differ_from_is_right(folder, capsys):
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    assert run(capsys, "show", "good.toml")[0] == 0


def test_a_byte_order_mark_is_no_error(folder, capsys):
    (folder / "good.toml").write_text(GOOD, encoding="utf-8-sig")
    assert run(capsys, "show", "good.toml")[0] == 0


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_one_line_with_the_path_what_was_found_and_what_is_allowed(wrong, folder, capsys):
    content, *says = WRONG[wrong]
    (folder / "wrong.toml").write_bytes(content.encode() if isinstance(content, str) else content)
    message = refusal(capsys, "show", "wrong.toml")
    where = "" if says[0] == "wrong.toml" else "wrong.toml: "
    assert message.startswith(f"fpswitch: {where}{says[0]}") or f".{says[0]}:" in message
    for each in says[1:]:
        assert each in message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no.toml", "No such file or directory"),
        ("./", "Is a directory"),
        ("good.csv/x.toml", "Not a directory"),
        ("./a\0b", "null"),
        ("./two\nlines", "'./two\\nlines': cannot be read"),
        ("", "unknown scenario ''"),
        (".", "unknown scenario '.'"),
        ("a\0b", "unknown scenario 'a\\x00b'"),
        ("good", "unknown scenario 'good'"),
        ("rfc-qestion", "did you mean 'rfc-question'?"),
        ("results", "unknown scenario 'results' (allowed: "),  # and no guess: nothing is like it
        ("rfc_question", "the path of a file ends in .toml or has a /"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(name, says, folder, capsys):
    assert says in refusal(capsys, "show", name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--strategies", "xstate-gest"), "--strategies: unknown strategy 'xstate-gest'; did you mean 'xstate-guest'?"),
        (("--strategies", ""), "--strategies: unknown strategy ''"),
        (("--strategies", "no-cet,no-cet"), "--strategies: found 'no-cet' twice"),
        (("--strategies", "no.toml"), "--strategies: strategy file"),
        (("--reference", "free"), "--reference: unknown strategy 'free'; did you mean 'free-ssp'?"),
        (("--reference", ""), "--reference: found ''"),
        (("--replications", "0"), "--replications: found 0; allowed: 1 to 100000"),
        (("--seed", "-1"), "--seed: found -1; allowed: 0 or more"),
        (("--case", "sapphire-rapids v6.19"), "--case: unknown case 'sapphire-rapids v6.19'; did you mean 'sapphire-"),
        (("--contrast", "no-cet"), "--contrast: found ['no-cet']; allowed: a list of 2 or more"),
        (("--contrast", "no-cet,fre-ssp"), "--contrast: unknown strategy 'fre-ssp'; did you mean 'free-ssp'?"),
        (("--contrast", "no-cet@x,free-ssp@y"), "--contrast: unknown case 'x'"),
        (("--cpu", "zen4,zen6"), "--cpu: unknown CPU 'zen6'; did you mean 'zen"),
        (("--kernel", "v6.18,v6.18"), "--kernel: found 'v6.18' twice"),
        (("--measure", "10"), "--measure: found '10'; allowed: a time like '2 ms'"),
        (("--precision", "0 %"), "--precision: found '0 %'; allowed: a share above 0"),
        (("--precision", "1 %", "--replications", "3"), "--precision: found beside replications"),
        (("--set", "guests.web.vcpus=0"), "--set guests.web.vcpus: found 0; allowed: 1 to 65536"),
        (("--set", "guests.wbe.vcpus=2"), "--set guests.wbe.vcpus: unknown name in guests 'wbe'; did you mean 'web'?"),
        (("--set", "guests.web.exits.oi.every=1 ms"), "unknown name in exits 'oi'; did you mean 'io'?"),
        (("--set", "guests.web.vcpu=2"), "--set guests.web.vcpu: unknown key 'vcpu'; did you mean 'vcpus'?"),
        (("--set", "guest.web.vcpus=2"), "unknown key 'guest'; did you mean 'guests'?"),
        (("--set", "host.cpu=zen4"), "--set host.cpu: found 'zen4'; allowed: a list in [ ], such as ['zen4']"),
        (("--set", "host.cpu=[zen4]"), "--set host.cpu: found '[zen4]', which is not TOML"),
        (("--set", "host.cpus"), "--set: found 'host.cpus'; allowed: KEY=VALUE"),
        (("--set", "=3"), "--set: found '=3'; allowed: KEY=VALUE"),
        (("--set", "host..cpus=3"), "--set: found 'host..cpus=3'; allowed: KEY=VALUE"),
        (("--set", "run.seed=3", "--seed", "4"), "--set run.seed: found beside --seed; allowed: one of them"),
    ],
)
def test_an_option_goes_through_the_same_checks(options, says, folder, capsys):
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    assert says in refusal(capsys, "show", "good.toml", *options)


def test_a_reference_that_is_named_is_possible_somewhere(folder, capsys):
    old = also(TSC, 'kernel = ["v6.6"]')
    (folder / "old.toml").write_text(old, encoding="utf-8")
    assert "--reference: strategy xstate-all on v6.6" in refusal(
        capsys, "show", "old.toml", "--reference", "xstate-all"
    )
    assert run(capsys, "show", "old.toml")[0] == 0  # nobody has named free-ssp
    (folder / "both.toml").write_text(old.replace('["v6.6"]', '["v6.6", "v6.18"]'), encoding="utf-8")
    assert run(capsys, "show", "both.toml", "--reference", "xstate-all")[0] == 0


def test_what_is_wrong_in_a_base_is_said_of_the_base(folder, capsys):
    (folder / "base.toml").write_text(also(RUN, "sed = 2"), encoding="utf-8")
    (folder / "over.toml").write_text('extends = "base.toml"\ntitle = "over"\n', encoding="utf-8")
    assert refusal(capsys, "show", "over.toml").startswith("fpswitch: base.toml: run.sed: unknown key 'sed'")


def test_what_a_variant_makes_wrong_is_said_of_the_variant(folder, capsys):
    (folder / "base.toml").write_text(GOOD, encoding="utf-8")
    (folder / "over.toml").write_text('extends = "base.toml"\n[guests.web]\nvcpus = 0\n', encoding="utf-8")
    assert refusal(capsys, "show", "over.toml").startswith("fpswitch: over.toml: guests.web.vcpus: found 0")


def test_a_long_value_is_shortened(folder, capsys):
    (folder / "long.toml").write_text(instead(GUEST, f'vcpus = "{"x" * 5000}"'), encoding="utf-8")
    assert len(refusal(capsys, "show", "long.toml")) < 300


ESCAPE = "\x1b[31mR\x07\u202e"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("run", "strategies"), [f"{ESCAPE}.toml"]),
        (("run", "contrasts"), [[f"no-cet@{ESCAPE}", f"no-cet@{ESCAPE}2"]]),
        (("run", "cases"), [ESCAPE]),
        (("host", "costs"), {"sapphire-rapids": f"{ESCAPE}.toml"}),
        (("host", "costs"), {ESCAPE: "zen4"}),
        (("host", "tsc"), {ESCAPE: "2 GHz"}),
        (("kernel", "carried"), f"./{ESCAPE}"),
        (("guests", "web", "demand"), {"empirical": f"{ESCAPE}.csv", "column": "t", "unit": "us"}),
        (("guests", "web", "demand"), {"empirical": "escape.csv", "column": "t", "unit": "us"}),
        (("sweep", "kernel.carried"), [f"{ESCAPE}.toml"]),
        (("extends",), f"{ESCAPE}.toml"),
        (("guests", ESCAPE), {}),
    ],
)
def test_control_characters_of_a_file_do_not_reach_the_terminal(path, value, folder, capsys):
    (folder / "escape.csv").write_text(f"{ESCAPE}\n1\n", encoding="utf-8")
    data = tomllib.loads(GOOD)
    table = data
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    (folder / "escape.toml").write_text(tomlkit.dumps(data), encoding="utf-8")
    assert refusal(capsys, "show", "escape.toml").rstrip("\n").isprintable()


def test_a_message_stays_short_with_a_long_name_and_with_many_that_are_allowed(folder, capsys):
    sweep_ = f'[sweep]\n"guests.web.vms" = {list(range(1, 900))}\n'
    (folder / "many.toml").write_text(GOOD + sweep_, encoding="utf-8")
    message = refusal(capsys, "show", "many.toml", "--case", "sapphire-rapids v6.18 guests.web.vms=900")
    assert "did you mean 'sapphire-rapids v6.18 guests.web.vms=" in message
    assert " more)" in message
    assert len(message) < 1500
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    assert len(refusal(capsys, "show", "good.toml", "--cpu", "x" * 5000)) < 500


def paths(table, above=()):
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))


COMPLETE = (
    GOOD.replace(EXIT, EXIT + "\ntime = { lognormal = '1 us', sigma = 0.5 }").replace(
        THREAD, THREAD + "\naffinity = [1]\nfpu = { components = ['AVX'], share = 0.5 }"
    )
    + '[sweep]\n"host.hz" = [250, 1000]\n'
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(
    ["2 ms", "1 kHz", "all", "x.toml"]
)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT
JUNK = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(paths(tomllib.loads(COMPLETE)))), JUNK, st.none() | TEXT)
def test_whatever_stands_at_a_path_it_is_read_or_refused_in_one_line(path, junk, new_key):
    data = tomllib.loads(COMPLETE)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1] if new_key is None else new_key] = junk
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junk.toml"
        file.write_text(tomlkit.dumps(data), encoding="utf-8")
        message = ""
        try:
            read(file)
        except InputError as error:
            message = str(error)
        assert message.isprintable(), message
        assert len(message) < 1000
