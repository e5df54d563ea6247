"""Where a buffer is when it is used: in L1, in L2 or in memory."""

import pytest
from hosts import RICH, from_text, on_host, only, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.host.caches import L1, L2, MEMORY, Always, Touched

HZ = 2e9

# Where a buffer is.

KIB = 1024


class Place:
    """A CPU as the rule sees it, and the sums of all."""

    def __init__(self, id, touched):
        self.id = id
        self.touched = touched


class Buffer:
    def __init__(self, address):
        self.address = address


@pytest.fixture
def caches():
    touched = [0, 0]
    return Touched(48 * KIB, 2048 * KIB, HZ, touched), Place(0, touched), Place(1, touched)


def touch(cpu, size):
    cpu.touched[cpu.id] += round(size * HZ)


@pytest.mark.parametrize(
    ("size", "level"),
    [(0, L1), (48 * KIB - 1, L1), (48 * KIB, L2), (2048 * KIB - 1, L2), (2048 * KIB, MEMORY), (1e12, MEMORY)],
)
def test_what_was_touched_since_a_buffer_was_used_decides_where_it_is(caches, size, level):
    rule, cpu, _ = caches
    buffer = Buffer(64)
    rule(cpu, buffer)
    touch(cpu, size)
    assert rule(cpu, buffer) == level
    assert rule(cpu, buffer) == L1  # it has just been used


def test_a_buffer_that_was_never_used_or_that_another_cpu_used_last_is_in_memory(caches):
    rule, here, there = caches
    buffer = Buffer(64)
    assert [rule(cpu, buffer) for cpu in (here, here, there, there, here)] == [MEMORY, L1, MEMORY, L1, MEMORY]


def test_a_freed_buffer_is_forgotten(caches):
    rule, cpu, _ = caches
    rule(cpu, Buffer(64))
    rule.forget(Buffer(64))
    assert rule(cpu, Buffer(64)) == MEMORY
    assert rule(cpu, Buffer(64)) == L1


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e7), min_size=2, max_size=10))
def test_more_touched_is_never_a_nearer_buffer(sizes):
    order = [L1, L2, MEMORY]
    levels = []
    for size in sorted(sizes):
        cpu = Place(0, [0])
        rule = Touched(48 * KIB, 2048 * KIB, HZ, cpu.touched)
        rule(cpu, Buffer(64))
        touch(cpu, size)
        levels.append(order.index(rule(cpu, Buffer(64))))
    assert levels == sorted(levels)


def test_always_is_always():
    assert {Always(MEMORY)(Place(i, []), Buffer(i)) for i in range(3)} == {MEMORY}


@pytest.mark.parametrize(("setting", "levels"), [("L1", {"L1"}), ("memory", {"memory"})])
def test_the_two_ends_of_the_buffer_level_are_in_the_ledger(setting, levels):
    record = simulate(on_host(from_text(RICH)[0], buffer_level=setting), "xstate-guest", 0)
    found = {operation.level for operation, _, _ in record.ledger if operation.operation in ("XSAVES", "XRSTORS")}
    assert found == levels


TOUCHING = """
title = "a guest that touches memory while it runs"
[run]
measure = "5 ms"
warmup = "0 ns"
strategies = ["xstate-guest"]
[host]
cpus = 1
cpu = ["zen4"]
halt_poll = "0 us"
buffer_level = "touched"
l1 = "32 KiB"
l2 = "1 MiB"
[guests.g]
demand = "100 us"
sleep = "100 us"
touches = "{rate}"
vmm_touches = "{vmm}"
"""


@pytest.mark.parametrize(("rate", "level"), [("10 MB/s", "L1"), ("1 GB/s", "L2"), ("100 GB/s", "memory")])
def test_where_the_guest_s_registers_are_saved_is_what_the_guest_touched_in_its_burst(rate, level):
    """100 us of it are 1 KB, 100 KB and 10 MB; what the VMM touches per second does not matter, which does not run."""
    for vmm in ("10 MB/s", "100 GB/s"):
        record = simulate(only(TOUCHING.format(rate=rate, vmm=vmm)), "xstate-guest", 0)
        saves = {each.level for each, *_ in record.ledger if each.operation == "XSAVES" and each.phase == "switch"}
        assert saves == {level}, vmm
