"""A CPU held by a busy thread or vCPU, at which another one wakes up."""

from hosts import MS, US, hosted, only, threads

MODELS = ("none", "voluntary", "full", "lazy")
TSC = 2e9
TICK = round(4 * MS * TSC)
"""At 250 Hz; those of CPU 1 of two come at 6 ms, 10 ms and so on."""
NEXT_TICK = TICK * 5 // 2
AT = round(7.05 * MS * TSC)
"""When the late one wakes: it has run after the tick at 6 ms at the latest, and the next is far."""
SOON = round(5 * US * TSC)

HEAD = """
title = "one CPU is kept busy, and something wakes there"
[run]
measure = "50 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
{host}
[threads.late]
affinity = [1]
compute = "20 us"
sleep = "10 s"
"""
GUEST = """
[guests.busy]
affinity = [1]
[guests.busy.exits.one]
every = "300 us"
reason = "{reason}"
time = "400 ns"
"""
KTHREAD = """
[threads.busy]
kind = "kthread"
affinity = [1]
compute = "1500 us"
"""
USER = """
[threads.busy]
affinity = [1]
compute = "30 ms"
"""


def held(busy, preemption="voluntary", **host):
    """A host whose CPU 1 has run ``busy`` alone for long; ``late`` sleeps there."""
    host = {"preemption": f'"{preemption}"', "hrtick": "false", **host}
    case = only(HEAD.format(host="\n".join(f"{key} = {each}" for key, each in host.items())) + busy)
    env, machine = hosted(case)
    env.run(until=100)
    return env, machine, threads(machine)


def wake(env, machine, late, at, on=0):
    """CPU ``on`` wakes ``late`` at a time, with a request so short that it preempts."""
    env.run(until=at)
    assert late.blocked, "not asleep yet"
    late.custom_slice = round(100 * US * TSC)
    machine.wake(late, machine.cpus[on])


def runs_at(env, machine, late, most=3 * TICK):
    """When CPU 1 has switched to ``late``, to within half a microsecond."""
    begin = env.now
    while machine.cpus[1].thread is not late:
        assert env.now < begin + most, "it never runs"
        env.run(until=env.now + 1000)
    return env.now


def waits(busy, preemption, **host):
    """How long ``late`` waits for CPU 1 if CPU 0 wakes it, and the CPU on which that was."""
    env, machine, there = held(busy, preemption, **host)
    wake(env, machine, there["late/0"], AT)
    return runs_at(env, machine, there["late/0"]) - AT, machine.cpus[1]
