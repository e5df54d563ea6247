"""Both engines on one case: whether they agree, how a rule is broken, and the hosts on which that is asked.

The loop runs as plain Python, unless ENGINE_HOSTS is set (:mod:`engine_mode`); so this is imported before anything of
``sim.engine``.
"""

import engine_mode  # first of all  # noqa: F401
from hosts import RICH, with_little

from sim.engine import simulation
from sim.engine.check import check
from sim.engine.fragments import Unsupported
from sim.host import simulation as reference


def assert_the_same(case, strategies=None, replication=0):
    """Both engines give the same records of all strategies on the schedule of the case."""
    walked = case.strategies if strategies is None else strategies
    wanted = reference.simulate(case, case.timed_by, walked, replication)
    found = simulation.simulate(case, case.timed_by, walked, replication)
    for one, other in zip(wanted, found, strict=True):
        assert dict(one.metrics) == dict(other.metrics), one.strategy
        assert one.ledger == other.ledger, one.strategy
        assert one.latency == other.latency, one.strategy
        assert one.integrity == other.integrity, one.strategy
    assert wanted == found


def differ(case, *strategies):
    """Whether the engines differ, or the loop notices by itself that its accounts are wrong."""
    try:
        return not check(case, case.timed_by, strategies, 0).same
    except (AssertionError, Unsupported):
        return True


def later(function):
    """The function with a result that is too large."""
    return lambda *arguments: function(*arguments) + 1000


def otherwise(function):
    """The function with the opposite answer."""
    return lambda *arguments: not function(*arguments)


def nobody(function):
    """The function that always says that there is none."""
    return lambda *arguments: -1


def never(function):
    """A function that does nothing."""
    return lambda *arguments: 0


NEWEST = RICH.replace('cpu = ["sapphire-rapids", "zen4"]', 'cpu = ["sapphire-rapids"]\nkernel = ["v7.3"]').replace(
    'shadow_stacks = "constant"', 'shadow_stacks = "constant"\nsignalled = 0.2\nsignal_time = "3 us"'
)
"""The same with lazy preemption, HRTICK and the slices of v7.3, and with signals."""


LOCKED = """
title = "guests that poll and guests that spin, and threads that sleep in ticks"
[run]
measure = "10 ms"
warmup = "1 ms"
latency_from = "event"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
hz = 1000
ple_window_shrink = 2
directed_yield = "lag-credit"
[guests.polling]
idle = "haltpoll"
demand = { exponential = "20 us" }
sleep = { exponential = "60 us" }
[guests.spinning]
vms = 2
vcpus = 3
lock = { every = { exponential = "20 us" }, hold = { exponential = "10 us" } }
demand = { exponential = "100 us" }
sleep = { exponential = "50 us" }
[threads.rcu]
kind = "kthread"
timer = "tick"
compute = "5 us"
sleep = { exponential = "1 ms" }
"""
ASKED = LOCKED.replace('sleep = { exponential = "60 us" }', 'arrivals = { exponential = "60 us" }')
"""The guest that polls gets requests of devices."""


GROUPED = """
title = "threads and vCPUs in control groups"
[run]
measure = "6 ms"
warmup = "1 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
kernel = ["{kernel}"]
preemption = "{preemption}"
hrtick = {hrtick}
tsc = "1 GHz"
hz = 1000
base_slice = "200 us"
ple_window = 500
directed_yield = "{directed}"
halt_poll = "20 us"
[guests.spinning]
vcpus = 4
group = "a"
lock = {{ every = {{ exponential = "30 us" }}, hold = {{ exponential = "10 us" }} }}
demand = {{ exponential = "200 us" }}
sleep = {{ exponential = "50 us" }}
[guests.halting]
vcpus = 2
group = "b"
nice = 3
demand = {{ exponential = "20 us" }}
sleep = {{ exponential = "30 us" }}
[threads.hog]
compute = "2 ms"
group = "b"
affinity = [0]
[threads.daemon]
count = 3
compute = {{ exponential = "50 us" }}
sleep = {{ exponential = "150 us" }}
group = "b"
[threads.kernel]
kind = "kthread"
count = 2
compute = {{ exponential = "20 us" }}
sleep = {{ exponential = "100 us" }}
[threads.pair]
kind = "pipe"
compute = "30 us"
group = "c"
[threads.make]
kind = "fork"
compute = {{ exponential = "40 us" }}
sleep = {{ exponential = "200 us" }}
group = "c"
[groups.a]
[groups.b]
weight = 300
[groups.c]
weight = 2048
"""


WAKING = (
    with_little("who waits for whom", "5 ms", "zen4")
    + """
halt_poll = "20 us"
preemption = "{preemption}"
[threads.source]
compute = {{ exponential = "20 us" }}
sleep = {{ exponential = "60 us" }}
wakes = {{ vm = 1.5, pool = 0.5, make = 1.0 }}
{after}
fpu = {{ components = ["SSE"], share = 0.5 }}
[threads.make]
compute = "10 us"
syscall = "2 us"
waits = {{ share = 0.7, at_most = "100 us" }}
sleep = "20 us"
wakes = {{ pool = 2.0, make = 0.3 }}
{after}
[threads.pool]
kind = "kthread"
count = 3
compute = {{ exponential = "15 us" }}
waits = {{ share = 1.0, at_most = "50 us"{order} }}
[threads.forks]
kind = "fork"
compute = "20 us"
sleep = "50 us"
wakes = {{ make = 1.5 }}
[guests.vm]
vcpus = 3
demand = {{ exponential = "10 us" }}
sleep = "30 us"
waits = {{ share = 0.9, at_most = "100 us"{order} }}
"""
)
BY_CHANCE = {"after": 'compute_after = { exponential = "5 us" }', "order": ', order = "any"'}
IN_ORDER = {"after": "", "order": ""}


MOVING = """
title = "one vCPU, whose kernel loads new SSPs, goes to and fro between two CPUs"
[run]
measure = "10 ms"
warmup = "0 ms"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
[guests.rewriting]
demand = { exponential = "100 us" }
sleep = { exponential = "100 us" }
task_switch = "50 us"
shadow_stacks = "rewritten"
fpu = { components = ["SSE", "AVX"], share = 0.5 }
[threads.worker]
kind = "kthread"
count = 2
compute = { exponential = "200 us" }
sleep = { exponential = "200 us" }
"""


STORM = """
title = "exits of two kinds, some with kernel_fpu_begin, drawn ahead several times, and some at the same time"
[run]
measure = "2 ms"
warmup = "0 ms"
[host]
cpus = 1
cpu = ["sapphire-rapids"]
[guests.storm]
vms = 2
shadow_stacks = "constant"
fpu = { components = ["SSE", "AVX"], every = "100 us" }
[guests.storm.exits]
kernel = { every = "400 kHz", time = "100 ns" }
other = { every = { constant = "4 us" }, time = { exponential = "50 ns" }, kernel_fpu = 0.1 }
more = { every = { constant = "8 us" }, time = "60 ns" }
"""
