"""Files with several headers: several recordings, or one recording's CPUs one after the other."""

import pytest
from trace_texts import read

from sim.errors import InputError

TRACER = "# tracer: nop\n#\n#           TASK-PID     CPU#     TIMESTAMP  FUNCTION\n"
PER_CPU = r"the events of CPU 1 begin before .* files of per_cpu .* as perf script, trace-cmd report and cat trace have"


def section(cpus, begin_us, end_us, step_us=10_000):
    """Wakeups from one time to another, on each of the CPUs in turn, below ftrace's header."""
    rows = [TRACER]
    for number, us in enumerate(range(begin_us, end_us + 1, step_us)):
        cpu = cpus[number % len(cpus)]
        time = f"{us // 10**6}.{us % 10**6:06}"
        rows.append(
            f"  swapper/{cpu}-0  [{cpu:03}] d..2. {time}: sched_wakeup: comm=a pid=7 prio=120 target_cpu={cpu:03}\n"
        )
    return "".join(rows)


def recordings(*sections, block=1 << 20):
    found, reader = read("".join(sections).encode(), block)
    assert len(found) == sum(each.count("sched_wakeup") for each in sections)
    return reader.report.recordings


def without_headers(text):
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


@pytest.mark.parametrize("block", [1 << 10, 1 << 20])
@pytest.mark.parametrize("of", [str, without_headers])
def test_cpus_one_after_the_other_are_refused_with_their_headers_and_without(of, block):
    """As of cat per_cpu/cpu*/trace; the file of an idle CPU has its header alone."""
    sections = [section([cpu], 5_000_000 + cpu, 6_000_000 + cpu) for cpu in range(3)]
    with pytest.raises(InputError, match=PER_CPU):
        recordings(*map(of, (sections[0], TRACER, *sections[1:], TRACER)), block=block)


@pytest.mark.parametrize("span_us", [(5_900_000, 6_500_000), (4_500_000, 5_100_000), (5_400_000, 5_600_000)])
def test_a_cpu_whose_buffer_holds_a_part_of_the_time_is_no_recording(span_us):
    with pytest.raises(InputError, match=PER_CPU):
        recordings(section([0], 5_000_000, 6_000_000), section([1], *span_us))


def test_a_cpu_is_compared_with_all_that_stand_before():
    with pytest.raises(InputError, match=PER_CPU):
        recordings(
            section([0], 5_000_000, 6_000_000), section([2], 1_000_000, 2_000_000), section([1], 5_500_000, 6_000_000)
        )


@pytest.mark.parametrize(
    ("cpus", "span_us"),
    [
        ([1], (6_000_001, 7_000_000)),
        ([1], (1_000_000, 2_000_000)),
        ([0], (7_000_000, 8_000_000)),
        ([0], (5_500_000, 6_500_000)),
        ([0], (1_000, 500_000)),
        ([0, 1], (5_500_000, 6_500_000)),
    ],
)
def test_recordings_whose_times_go_on_or_start_anew_or_that_have_the_same_cpus_are_told_as_such(cpus, span_us):
    counted = recordings(section([0], 5_000_000, 6_000_000), section(cpus, *span_us))
    assert counted == 2 + (cpus == [0] and span_us[0] < 4_000_000)  # CPU 0's clock steps back by seconds, too
