"""Hosts drawn at random from all that a scenario may say: small, odd, and with much that comes at the same time."""

from random import Random

KERNELS = (
    ("v6.18", "none"), ("v6.18", "voluntary"), ("v6.18", "full"), ("v6.18", "lazy"), ("v7.3", "full"), ("v7.3", "lazy"),
)  # fmt: skip
OTHERS = ("manual-load", "manual-lazy", "user-return", "manual-exit", "xstate-all-resident")


WAKING = 150
"""From this number on, threads and vCPUs wait for threads."""
KICKING = 200
"""From this number on, exits wake threads, too."""
BY_CHANCE = 240
"""From this number on, whoever waits may be woken, and bursts go on after they have woken somebody."""
GROUPED = 260
"""From this number on, threads and vCPUs are in control groups."""


def any_host(number):
    """The text of the scenario with this number; the same number gives the same text."""
    draw = Random(number)
    host = _Host(draw, grouped=number >= GROUPED)
    parts = [_threads(draw, host, i) for i in range(draw.randint(1, 3))]
    parts += [_guests(draw, host, i) for i in range(draw.randrange(3))]
    if number >= WAKING:
        parts.append(_waking(draw, host, by_chance=number >= BY_CHANCE))
    if number >= KICKING:
        parts.append(_kicks(draw, parts[-1]))
    if draw.random() < 0.4:
        parts.append(f'[interrupts.net]\nevery = "{draw.choice((30, 300))} us"\ntime = "1 us"\nkernel_fpu = 0.5\n')
    strategies = f'strategies = ["xstate-guest", "{draw.choice(OTHERS)}"]'
    parts += [f"[groups.{name}]\nweight = {weight}\n" for name, weight in host.groups.items()]
    return "".join((host.text, *parts)).replace("[run]", f"[run]\n{strategies}", 1)


class _Host:
    """The tables [run] and [host], and what the others have to know of them."""

    def __init__(self, draw, grouped):
        kernel, preemption = draw.choice(KERNELS)
        self.cpu = draw.choice(("sapphire-rapids", "sapphire-rapids", "zen4"))
        cpus = draw.choice((1, 2, 2, 3))
        self.affinities = ('"pinned"', "[0]", "[0, 1]", "[1]") if cpus > 1 else ('"pinned"', "[0]")
        keys = {
            "cpus": cpus,
            "cpu": f'["{self.cpu}"]',
            "kernel": f'["{kernel}"]',
            "preemption": f'"{preemption}"',
            "hrtick": draw.choice(("true", "false")),
            "tsc": draw.choice(('"1 GHz"', '"2 GHz"')),
            "hz": draw.choice((250, 1000)),
            "idle_exit": draw.choice(('"0 us"', '"3 us"')),
            "halt_poll": draw.choice(('"0 ns"', '"20 us"', '"200 us"')),
            "halt_poll_grow": draw.choice((0, 2, 3)),
            "interrupt_time": draw.choice(('"0 ns"', '"1 us"', '{ exponential = "1 us" }')),
        }
        for share, key, values in (
            (0.2, "scheduler", ('"round-robin"',)),
            (0.15, "idle_balancing", ("false",)),
            (0.15, "wakeup_preemption", ("false",)),
            (0.3, "base_slice", ('"100 us"', '"2 ms"', '"3 ms"')),
            (0.5, "directed_yield", ('"none"', '"v6.18"', '"lag-credit"', '"lag-credit"')),
            (0.3, "ple_window", ("500", "2000")),
            (0.2, "ple_window_grow", ("0", "300")),
            (0.2, "wakeup_time", ('"0 ns"',)),
        ):
            if draw.random() < share:
                keys[key] = draw.choice(values)
        self.groups = {}
        if grouped:
            keys.pop("scheduler", None)  # only EEVDF has groups
            self.groups = {name: draw.choice((15, 300, 1024, 1024, 88761)) for name in "abc"[: draw.randint(1, 3)]}
        written = "".join(f"{key} = {value}\n" for key, value in keys.items())
        self.text = (
            'title = "any host"\n[run]\nreference = "xstate-guest"\n'
            f'measure = "{draw.choice((2, 4, 20))} ms"\nwarmup = "1 ms"\n'
            f'latency_from = "{draw.choice(("wakeup", "event"))}"\n[host]\n{written}'
        )


def _time(draw, *values):
    value = draw.choice(values)
    return draw.choice((f'"{value}"', f'{{ exponential = "{value}" }}'))


def _common(draw, host, nice):
    text = f"nice = {draw.choice(nice)}\n" if draw.random() < 0.4 else ""
    text += f'group = "{draw.choice(list(host.groups))}"\n' if host.groups and draw.random() < 0.8 else ""
    return text + (f"affinity = {draw.choice(host.affinities)}\n" if draw.random() < 0.45 else "")


def _threads(draw, host, number):
    kind = draw.choice(("compute", "compute", "kthread", "pipe", "fork"))
    text = f'[threads.t{number}]\nkind = "{kind}"\ncount = {draw.randint(1, 3)}\n'
    if kind == "pipe":
        text += f"compute = {_time(draw, '1 us', '2 us', '10 us')}\n"
    else:
        text += f"compute = {_time(draw, '1 us', '5 us', '100 us', '3 ms', '20 ms')}\n"
        text += f"sleep = {_time(draw, '1 ns', '5 us', '50 us', '400 us', '7 ms')}\n"
        text += f"timer = {draw.choice(('hrtimer', 'tick'))!r}\n" if kind == "kthread" else ""
    if kind != "kthread" and draw.random() < 0.7:
        text += f"syscall = {_time(draw, '1 us', '5 us', '500 us')}\n"
    if kind == "compute" and draw.random() < 0.5:
        more = draw.choice(("AVX", "XTILEDATA" if host.cpu == "sapphire-rapids" else "FP"))
        text += f'fpu = {{ components = ["SSE", "{more}"], share = 0.5 }}\n'
    return text + _common(draw, host, (-5, 3, 10, 18))


def _waits(draw, by_chance):
    limit = draw.choice(("", ', at_most = "20 us"', ', at_most = "100 us"', ', at_most = "1 ms"'))
    limit += ', order = "any"' if by_chance and draw.random() < 0.7 else ""
    return f"waits = {{ share = {draw.choice((0.5, 1.0))}{limit} }}\n"


def _waking(draw, host, by_chance):
    """A pool and a guest that wait, and those that wake them; a wait may run out of time."""
    text = ""
    for name, wakes in (("source", ("pool", "waiting")), ("forks", ("pool", "waiting")), ("pool", ("pool", "waiting"))):
        kind = "fork" if name == "forks" else draw.choice(("compute", "kthread"))
        text += f'[threads.{name}]\nkind = "{kind}"\ncount = {draw.randint(1, 3)}\n'
        text += f"compute = {_time(draw, '1 us', '5 us', '30 us')}\nsleep = {_time(draw, '5 us', '50 us')}\n"
        text += f"syscall = {_time(draw, '1 us', '30 us')}\n" if kind != "kthread" and draw.random() < 0.6 else ""
        text += f"wakes = {{ {', '.join(f'{each} = {draw.choice((0.3, 1.0, 2.5))}' for each in wakes)} }}\n"
        if by_chance and kind == "compute":
            text += f"compute_after = {_time(draw, '0 ns', '3 us', '50 us')}\n"
        text += (_waits(draw, by_chance) if name == "pool" else "") + _common(draw, host, (-5, 3, 10))
    text += f"[guests.waiting]\nvcpus = {draw.randint(1, 3)}\ndemand = {_time(draw, '5 us', '30 us')}\n"
    text += f"sleep = {_time(draw, '1 ns', '60 us')}\n{_waits(draw, by_chance)}"
    text += 'idle = "haltpoll"\n' if draw.random() < 0.35 else ""
    text += f"posted_interrupts = {draw.choice(('true', 'false'))}\n{_common(draw, host, (-5, 3, 10))}"
    return text


def _kicks(draw, waking):
    """Exits of the guest that waits, which wake the pool; a VM of one vCPU sends no IPIs."""
    effects = ["", 'handled = "userspace"\nvmm = "2 us"\n', 'reason = "msr-write"\n']
    effects += ['effect = "ipi"\n'] if "[guests.waiting]\nvcpus = 1\n" not in waking else []
    text = ""
    for i, effect in enumerate(effects):
        every = draw.choice((8, 30, 100))
        text += f'[guests.waiting.exits.kick{i}]\nevery = {{ exponential = "{every} us" }}\n{effect}'
        text += f"wakes = {{ pool = {draw.choice((0.3, 1.0, 2.5))} }}\n" if draw.random() < 0.8 else ""
    return text


def _guests(draw, host, number):
    vcpus = draw.randint(1, 3)
    text = f"[guests.g{number}]\nvms = {draw.randint(1, 2)}\nvcpus = {vcpus}\n"
    text += f'posted_interrupts = {draw.choice(("true", "false"))}\nfpu = {{ components = ["AVX"], every = "40 us" }}\n'
    if draw.random() < 0.7:
        text += f"demand = {_time(draw, '5 us', '30 us', '200 us')}\n"
        text += draw.choice(
            (
                f"sleep = {_time(draw, '1 ns', '20 us', '60 us', '300 us')}\n",
                f"arrivals = {_time(draw, '30 us', '100 us')}\n",
            )
        )
        text += 'signalled = 0.5\nsignal_time = "3 us"\n' if draw.random() < 0.4 else ""
        text += 'idle = "haltpoll"\n' if draw.random() < 0.35 else ""
    if draw.random() < 0.3:
        text += f'task_switch = "50 us"\nshadow_stacks = "{draw.choice(("rewritten", "constant", "none"))}"\n'
    text += 'touches = "900 GiB/s"\n' if draw.random() < 0.3 else ""
    if draw.random() < 0.3:
        text += f'lock = {{ every = "{draw.choice((20, 60))} us", hold = "{draw.choice((2, 10))} us" }}\n'
    text += _common(draw, host, (-5, 3, 10))
    effects = [
        "", f'handled = "userspace"\nvmm = {_time(draw, "0 ns", "5 us")}\n', 'reason = "wrmsr-tsc-deadline"\n',
        "kernel_fpu = 0.2\n",
    ]  # fmt: skip
    if vcpus > 1:
        effects += [f'effect = "ipi"\ntarget = "{target}"\n' for target in ("next", "random")]
    for i in range(draw.randrange(4)):
        every, time = _time(draw, "5 us", "20 us", "60 us"), _time(draw, "0 ns", "1 us", "6 us")
        text += f"[guests.g{number}.exits.e{i}]\nevery = {every}\ntime = {time}\n{draw.choice(effects)}"
    return text
