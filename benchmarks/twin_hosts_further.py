"""Further simulated hosts for ``twins.py``: more CPUs, other kernels, vhost threads in groups, IPIs, tiles, locks."""

from twin_hosts import HOGS, RCU, SLEEPERS, SPIN, SSE, Host

GROUPS_OF_VMS = """
[groups.machine]
weight = 1024
[groups.batch]
weight = 512
[guests.vm]
group = "machine"
vcpus = 2
fpu = {{ components = ["SSE", "AVX"], every = "1 ms" }}
[guests.vm.exits.kick]
every = {{ exponential = "300 us" }}
reason = "ept-misconfig"
{handled}
wakes = {{ vhost = 1.0 }}
[threads.vhost]
{kind}
compute = {{ exponential = "60 us" }}
waits = {{ share = 1.0 }}
[threads.hog]
group = "batch"
count = 3
compute = "1 ms"
fpu = {{ components = ["SSE", "AVX"] }}
[threads.other]
compute = "1 ms"
"""
KTHREAD = 'kind = "kthread"\n'
IPIS = """
[guests.vm]
vcpus = 6
demand = { exponential = "250 us" }
sleep = { exponential = "1 ms" }
fpu = { components = ["SSE", "AVX"], every = "1 ms" }
[guests.vm.exits.ipi]
every = { exponential = "200 us" }
reason = "wrmsr-icr"
effect = "ipi"
"""
MAKE_BESIDE_A_VM = """
[threads.make]
kind = "fork"
count = 8
compute = { lognormal = "6 ms", sigma = 0.8 }
sleep = { exponential = "20 ms" }
fpu = { components = ["SSE"] }
[guests.vm]
vcpus = 2
demand = { exponential = "150 us" }
sleep = { exponential = "1 ms" }
fpu = { components = ["SSE"], every = "1 ms" }
"""
TILES = """
[guests.ml]
vcpus = 6
amx = true
fpu = { components = ["SSE", "AVX", "XTILEDATA"], every = "2 ms" }
[guests.ml.exits.io]
every = { exponential = "500 us" }
reason = "io"
handled = "userspace"
vmm = { exponential = "15 us" }
"""
NICE_LEVELS = """
[threads.low]
nice = 15
count = 2
compute = "1 ms"
fpu = { components = ["SSE"] }
[threads.mid]
nice = 5
count = 2
compute = { exponential = "700 us" }
sleep = { exponential = "500 us" }
[threads.high]
nice = -5
compute = { lognormal = "200 us", sigma = 0.7 }
sleep = { exponential = "1 ms" }
fpu = { components = ["SSE"] }
"""
TWO_VMS = """
[guests.front]
vcpus = 2
demand = { exponential = "150 us" }
waits = { share = 0.5, at_most = "10 ms" }
sleep = { exponential = "500 us" }
fpu = { components = ["SSE", "AVX"], every = "1 ms" }
[guests.front.exits.tx]
every = { exponential = "120 us" }
reason = "ept-misconfig"
wakes = { vhost-front = 1.0 }
[threads.vhost-front]
kind = "kthread"
compute = { exponential = "20 us" }
waits = { share = 1.0 }
wakes = { back = 1.0 }
[guests.back]
vcpus = 2
demand = { exponential = "80 us" }
waits = { share = 0.8, at_most = "10 ms" }
sleep = { exponential = "800 us" }
fpu = { components = ["SSE"], every = "1 ms" }
[guests.back.exits.tx]
every = { exponential = "100 us" }
reason = "ept-misconfig"
wakes = { vhost-back = 0.8 }
[threads.vhost-back]
kind = "kthread"
compute = { exponential = "20 us" }
waits = { share = 1.0 }
wakes = { front = 1.0 }
"""
THREE_GROUPS = """
[groups.vms]
weight = 2048
[groups.web]
weight = 1024
[groups.batch]
weight = 256
[guests.vm]
group = "vms"
vcpus = 4
fpu = { components = ["SSE"], every = "1 ms" }
[threads.web]
group = "web"
count = 6
compute = { exponential = "300 us" }
sleep = { exponential = "900 us" }
fpu = { components = ["SSE"] }
[threads.batch]
group = "batch"
count = 6
compute = "1 ms"
fpu = { components = ["SSE"] }
"""
POLLED = """
[guests.vm]
vcpus = 16
demand = { exponential = "200 us" }
sleep = { exponential = "100 us" }
fpu = { components = ["SSE"], every = "1 ms" }
"""
LONG_BURSTS = """
[threads.batch]
count = 4
compute = { lognormal = "40 ms", sigma = 0.7 }
sleep = { exponential = "30 ms" }
fpu = { components = ["SSE"] }
"""
LOCK = """
[guests.vm]
vcpus = 8
demand = { exponential = "300 us" }
sleep = { exponential = "300 us" }
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.lock]
every = { exponential = "20 us" }
hold = { exponential = "3 us" }
"""
TWO_LOCKS = """
[guests.vm]
vms = 2
vcpus = 4
demand = { exponential = "500 us" }
sleep = { exponential = "400 us" }
fpu = { components = ["SSE", "AVX"], every = "1 ms" }
[guests.vm.lock]
every = { exponential = "100 us" }
hold = { exponential = "10 us" }
"""
BUSY_LOCK = """
[guests.vm]
vcpus = 6
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.lock]
every = { exponential = "15 us" }
hold = { exponential = "1 us" }
"""
EVEN_LOCK = """
[guests.vm]
vcpus = 4
demand = { exponential = "300 us" }
sleep = { exponential = "300 us" }
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.lock]
every = { exponential = "30 us" }
hold = { exponential = "8 us" }
"""
SHORT_HOLDS = """
[guests.vm]
vcpus = 8
demand = { exponential = "200 us" }
sleep = { exponential = "500 us" }
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.lock]
every = { exponential = "5 us" }
hold = { exponential = "500 ns" }
"""
OTHER_LOCK = """
[guests.big]
vcpus = 6
demand = { lognormal = "400 us", sigma = 0.7 }
sleep = { exponential = "600 us" }
fpu = { components = ["SSE", "AVX"], every = "1 ms" }
[guests.big.lock]
every = { lognormal = "40 us", sigma = 1.0 }
hold = "6 us"
[guests.big.exits.msr]
every = { exponential = "150 us" }
reason = "msr-write"
[guests.big.exits.io]
every = { exponential = "700 us" }
reason = "io"
handled = "userspace"
vmm = { exponential = "15 us" }
[guests.small]
vcpus = 2
demand = { exponential = "300 us" }
sleep = { exponential = "800 us" }
fpu = { components = ["SSE"], every = "1 ms" }
"""
FORKED_TOO_FAST = """
[threads.make]
kind = "fork"
count = 4
compute = { lognormal = "6 ms", sigma = 0.8 }
sleep = { exponential = "9 ms" }
fpu = { components = ["SSE"] }
"""
HOSTS = {
    "a vhost thread in its VM's group": Host(
        2, "none", "", GROUPS_OF_VMS.format(handled="", kind=KTHREAD + 'group = "machine"') + RCU,
    ),
    "a vhost thread in no group": Host(2, "none", "", GROUPS_OF_VMS.format(handled="", kind=KTHREAD) + RCU),
    "an I/O thread in its VM's group": Host(
        2, "voluntary", "",
        GROUPS_OF_VMS.format(handled='handled = "userspace"\nvmm = "4 us"', kind='group = "machine"\n' + SSE) + RCU,
    ),
    "32 vCPUs on 8 CPUs": Host(
        8, "voluntary", "", SPIN.format(n=32).replace('"SSE"', '"SSE", "AVX"') + SLEEPERS.format(n=4) + RCU,
        kernel="v6.12",
    ),
    "IPIs between vCPUs": Host(
        4, "none", 'halt_poll = "0 ns"', IPIS + HOGS.format(n=1) + RCU, cpu="sapphire-rapids",
    ),
    "a make of eight beside a VM": Host(4, "voluntary", "", MAKE_BESIDE_A_VM + RCU, kernel="v6.12"),
    "guests with tiles": Host(
        4, "lazy", "", TILES + SLEEPERS.format(n=4) + RCU, cpu="sapphire-rapids", kernel="v7.3",
    ),
    "nice levels": Host(2, "full", "", NICE_LEVELS + HOGS.format(n=1) + RCU, cpu="zen3", kernel="v6.6"),
    "vhost threads between two VMs": Host(4, "none", 'halt_poll = "0 ns"', TWO_VMS + HOGS.format(n=2) + RCU),
    "three groups": Host(4, "none", "", THREE_GROUPS + RCU, kernel="v6.12"),
    "short halts on 16 CPUs": Host(16, "lazy", "", POLLED + HOGS.format(n=2) + RCU, kernel="v7.3"),
    "long bursts beside spinners": Host(4, "voluntary", "", SPIN.format(n=6) + LONG_BURSTS + RCU),
    "guests with a lock": Host(4, "voluntary", "", LOCK + HOGS.format(n=2) + RCU, cpu="sapphire-rapids"),
    "two VMs with locks": Host(
        4, "lazy", "", TWO_LOCKS + HOGS.format(n=1) + RCU, cpu="sapphire-rapids", kernel="v7.3",
    ),
    "busy guests with a lock": Host(2, "none", "", BUSY_LOCK + RCU),
    "short holds": Host(
        2, "full", "", SHORT_HOLDS + SLEEPERS.format(n=3) + RCU, cpu="sapphire-rapids", kernel="v7.3",
    ),
    "a lock without overcommitment": Host(4, "voluntary", "", EVEN_LOCK + RCU, cpu="sapphire-rapids"),
    "a lock of other times": Host(4, "voluntary", "", OTHER_LOCK + HOGS.format(n=1) + RCU, cpu="sapphire-rapids"),
    "children forked too fast": Host(2, "voluntary", "", FORKED_TOO_FAST + RCU),
}  # fmt: skip
