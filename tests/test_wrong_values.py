"""Values in scenario files that are wrong by themselves: keys, types, bounds, units and distributions."""

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
    instead,
    judged,
)

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
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_one_line_with_the_path_what_was_found_and_what_is_allowed(wrong, folder, capsys):
    judged(WRONG[wrong], folder, capsys)
