"""Simulated hosts for ``twins.py``: no rule of ``fpswitch fit`` was made on them."""

from typing import NamedTuple


class Host(NamedTuple):
    """``lines`` are keys of [host], ``text`` are its threads, guests, groups and interrupts."""

    cpus: int
    preemption: str
    lines: str
    text: str
    cpu: str = "zen4"
    kernel: str = "v6.18"


SSE = 'fpu = { components = ["SSE", "AVX"] }\n'
HOGS = '[threads.hog]\ncount = {n}\ncompute = "1 ms"\nfpu = {{ components = ["SSE", "AVX"] }}\n'
SLEEPERS = (
    '[threads.sleeper]\ncount = {n}\ncompute = {{ exponential = "200 us" }}\nsleep = {{ exponential = "1500 us" }}\n'
)
RCU = '[threads.rcu_preempt]\nkind = "kthread"\ncompute = "8 us"\nsleep = { exponential = "9 ms" }\ntimer = "tick"\n'
SPIN = '[guests.vm]\nvcpus = {n}\nfpu = {{ components = ["SSE"], every = "1 ms" }}\n'
HALTING = """
[guests.vm]
vcpus = 3
demand = {{ exponential = "150 us" }}
{end}
signalled = {signalled}
signal_time = "10 us"
fpu = {{ components = ["SSE"], every = "1 ms" }}
[guests.vm.exits.io]
every = {{ exponential = "200 us" }}
reason = "io"
handled = "userspace"
vmm = "10 us"
"""
KICKER = '[threads.kicker]\ncompute = "20 us"\nsleep = { exponential = "700 us" }\nwakes = { vm = 1.0 }\n' + SSE
OUT = """
[guests.vm]
vcpus = 2
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.exits.io]
every = { exponential = "30 us" }
reason = "io"
handled = "userspace"
vmm = { exponential = "8 us" }
"""
PIPE = '[threads.sched-pipe]\nkind = "pipe"\ncompute = "40 us"\nsyscall = "20 us"\n' + SSE
BUILD = """
[threads.sh]
kind = "fork"
compute = { lognormal = "4 ms", sigma = 1.0 }
sleep = { exponential = "8 ms" }
wakes = { make = 1.0 }
[threads.make]
compute = { exponential = "300 us" }
waits = { share = 1.0 }
fpu = { components = ["SSE"] }
"""
GROUPED = (
    SPIN.format(n=4).replace("vcpus", 'group = "load"\nvcpus')
    + SLEEPERS.format(n=3).replace("count", 'group = "load"\ncount')
    + HOGS.format(n=1)
    + '[threads.other]\ncompute = "1 ms"\nnice = 5\n'
    + SSE
    + "[groups.load]\nweight = 600\n"
)
VHOST = """
[threads.source]
compute = { exponential = "60 us" }
sleep = { exponential = "400 us" }
wakes = { worker = 0.8 }
[threads.worker]
kind = "kthread"
count = 2
compute = { exponential = "40 us" }
waits = { share = 1.0 }
"""
STORM = """
[guests.vm]
vcpus = 2
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.exits.cpuid]
every = { exponential = "25 us" }
reason = "cpuid"
[guests.vm.exits.io]
every = { exponential = "300 us" }
reason = "io"
handled = "userspace"
vmm = "10 us"
"""
IDLING = """
[guests.vm]
vcpus = {n}
demand = {{ exponential = "{demand}" }}
sleep = {{ exponential = "{sleep}" }}
fpu = {{ components = ["SSE", "AVX"], every = "1 ms" }}
"""
TIMERS = """
[threads.timer]
count = 3
compute = "60 us"
sleep = "1 ms"
fpu = { components = ["SSE"] }
[threads.frame]
compute = { lognormal = "3 ms", sigma = 0.3 }
sleep = "13 ms"
fpu = { components = ["SSE", "AVX"] }
"""
PIPELINE = """
[threads.source]
compute = { exponential = "100 us" }
sleep = { exponential = "300 us" }
wakes = { filter = 1.0 }
fpu = { components = ["SSE"] }
[threads.filter]
compute = { exponential = "80 us" }
waits = { share = 1.0 }
wakes = { sink = 0.5 }
fpu = { components = ["SSE", "AVX"] }
[threads.sink]
compute = { exponential = "60 us" }
waits = { share = 1.0 }
fpu = { components = ["SSE"] }
"""
MAKE_J = """
[threads.make]
kind = "fork"
compute = { lognormal = "8 ms", sigma = 1.0 }
sleep = { exponential = "5 ms" }
fpu = { components = ["SSE"] }
"""
KICKS = """
[guests.vm]
vcpus = 2
fpu = {{ components = ["SSE", "AVX"], every = "1 ms" }}
[guests.vm.exits.kick]
every = {{ exponential = "150 us" }}
reason = "ept-misconfig"
handled = "{handled}"
vmm = {vmm}
wakes = {{ vhost = {mean} }}
[threads.vhost]
{kind}
compute = {{ exponential = "25 us" }}
waits = {{ share = 1.0 }}
"""
FPU_IRQ = """
[interrupts.crypto]
every = { exponential = "500 us" }
time = "5 us"
kernel_fpu = 1.0
"""
CONTAINERS = """
[groups.one]
weight = 1024
[groups.two]
weight = 512
[threads.hog]
group = "one"
count = 2
compute = "1 ms"
fpu = { components = ["SSE", "AVX"] }
[threads.server]
group = "one"
count = 3
compute = { exponential = "150 us" }
sleep = { exponential = "1 ms" }
fpu = { components = ["SSE"] }
[threads.batch]
group = "two"
count = 4
compute = "1 ms"
fpu = { components = ["SSE", "AVX"] }
[threads.other]
count = 2
compute = "1 ms"
"""
DATABASE = """
[threads.client]
count = 6
compute = { exponential = "120 us" }
sleep = { exponential = "800 us" }
waits = { share = 0.6 }
wakes = { log = 1.0 }
fpu = { components = ["SSE", "AVX"] }
[threads.log]
compute = { exponential = "40 us" }
waits = { share = 1.0 }
wakes = { client = 3.0 }
fpu = { components = ["SSE"] }
"""
WORKERS = """
[threads.worker]
count = 2
affinity = "pinned"
compute = { lognormal = "60 us", sigma = 1.0 }
sleep = { exponential = "110 us" }
fpu = { components = ["SSE"] }
[threads.ksoftirqd]
kind = "kthread"
count = 2
affinity = "pinned"
compute = { exponential = "30 us" }
sleep = { exponential = "2 ms" }
[interrupts.nic]
every = { exponential = "150 us" }
time = "4 us"
"""
PERIODIC = """
[threads.control]
nice = -20
compute = "120 us"
sleep = "880 us"
fpu = { components = ["SSE", "AVX"] }
[threads.logger]
nice = 10
compute = { exponential = "300 us" }
sleep = { exponential = "3 ms" }
fpu = { components = ["SSE"] }
"""
VIRTIO = """
[guests.vm]
vcpus = 2
demand = { exponential = "200 us" }
waits = { share = 0.7, at_most = "5 ms" }
sleep = { exponential = "600 us" }
fpu = { components = ["SSE", "AVX"], every = "1 ms" }
[guests.vm.exits.doorbell]
every = { exponential = "180 us" }
reason = "ept-misconfig"
wakes = { iothread = 1.0 }
[threads.iothread]
compute = { exponential = "30 us" }
waits = { share = 1.0 }
wakes = { vm = 0.8 }
fpu = { components = ["SSE"] }
"""
HOSTS = {
    "pipe beside a hog": Host(1, "none", "", PIPE + HOGS.format(n=1) + RCU),
    "sleepers and hogs": Host(2, "voluntary", "", HOGS.format(n=3) + SLEEPERS.format(n=6) + RCU),
    "a half idle host": Host(4, "voluntary", "", SLEEPERS.format(n=8) + HOGS.format(n=1) + RCU),
    "halts that timers end": Host(
        2, "none", 'halt_poll = "0 ns"',
        HALTING.format(end='sleep = { exponential = "900 us" }', signalled=0.0)
        + SLEEPERS.format(n=2) + HOGS.format(n=1),
    ),
    "halts that a kicker ends": Host(
        2, "none", 'halt_poll = "0 ns"',
        HALTING.format(end="waits = { share = 1.0 }", signalled=0.95)
        + KICKER + HOGS.format(n=2) + SLEEPERS.format(n=2),
    ),
    "OUT exits": Host(2, "none", "", OUT + SLEEPERS.format(n=2) + HOGS.format(n=2)),
    "overcommitted spinners": Host(2, "none", "", SPIN.format(n=5) + SLEEPERS.format(n=3) + HOGS.format(n=1) + RCU),
    "spinners in a control group": Host(2, "none", "", GROUPED + RCU),
    "a build": Host(2, "voluntary", "", BUILD + HOGS.format(n=1) + RCU),
    "a worker pool": Host(2, "full", "", VHOST + HOGS.format(n=2) + SLEEPERS.format(n=2)),
    "CPUID storms": Host(2, "none", "", STORM + SLEEPERS.format(n=2) + HOGS.format(n=1) + RCU),
    "halts that KVM polls": Host(4, "voluntary", "", IDLING.format(n=3, demand="80 us", sleep="150 us") + RCU),
    "overcommit with halts": Host(
        2, "none", 'halt_poll = "0 ns"', IDLING.format(n=6, demand="300 us", sleep="500 us") + HOGS.format(n=1) + RCU,
    ),
    "vhost threads that KVM wakes": Host(
        2, "none", "",
        KICKS.format(handled="kernel", mean=0.8, vmm='"0 ns"', kind='kind = "kthread"')
        + HOGS.format(n=1) + SLEEPERS.format(n=2) + RCU,
    ),
    "an I/O thread that the VMM wakes": Host(
        2, "voluntary", "",
        KICKS.format(handled="userspace", mean=1.0, vmm='"8 us"', kind=SSE) + HOGS.format(n=1) + RCU,
    ),
    "periodic timers": Host(2, "none", "", TIMERS + HOGS.format(n=2) + RCU),
    "a pipeline": Host(2, "voluntary", "", PIPELINE + HOGS.format(n=2) + RCU),
    "a parallel make": Host(2, "voluntary", "", MAKE_J + SLEEPERS.format(n=3) + RCU),
    "interrupts that use the FPU": Host(
        2, "none", "", SPIN.format(n=2) + HOGS.format(n=2) + SLEEPERS.format(n=3) + SSE + RCU + FPU_IRQ,
    ),
    "two containers": Host(2, "none", "", CONTAINERS + RCU),
    "group commit": Host(2, "voluntary", "", DATABASE + HOGS.format(n=1) + RCU),
    "pinned workers": Host(2, "full", "", WORKERS + HOGS.format(n=1) + RCU),
    "a periodic thread above others": Host(1, "full", "", PERIODIC + HOGS.format(n=2) + RCU),
    "a vCPU and its I/O thread": Host(3, "voluntary", 'halt_poll = "0 ns"', VIRTIO + HOGS.format(n=1) + RCU),
}  # fmt: skip
