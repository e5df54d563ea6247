"""What a host takes at least, and what is said of the memory that there is."""

import re

import pytest
from hosts import only, with_little

from sim.errors import InputError
from sim.host import room

GB = 10**9


def sized(monkeypatch, there_is):
    """A host whose CPUs and threads are as large as can be read off the total, on a machine with so much memory."""
    for name, size in (("CPU_BYTES", 7), ("CPU_STATE_BYTES", 11), ("THREAD_BYTES", 130), ("THREAD_STATE_BYTES", 170)):
        monkeypatch.setattr(room, name, size * GB)
    monkeypatch.setattr(room, "memory_bytes", lambda: there_is)
    return only(with_little("a host", "1 ms") + '[threads.t]\ncount = 5\ncompute = "1 ms"\n')


def test_each_cpu_and_each_thread_takes_its_own_part_and_a_state_for_each_strategy(monkeypatch):
    for strategies in (1, 2, 3):
        least = 2 * (7 + 11 * strategies) + 5 * (130 + 170 * strategies)
        case = sized(monkeypatch, least * GB)
        room.check_room(case, strategies)
        case = sized(monkeypatch, least * GB - 1)
        with pytest.raises(InputError, match=rf"at least {least:,}\.0 GB with {strategies} strategies"):
            room.check_room(case, strategies)


def test_both_messages_say_how_much_memory_there_is_to_a_tenth_of_a_gigabyte(monkeypatch):
    case = sized(monkeypatch, 12_345_678_901)
    with pytest.raises(InputError, match=r"what fits into the 12\.3 GB that a process may have here"):
        room.check_room(case, 1)
    monkeypatch.setattr(room.resource, "getrusage", lambda _: type("Usage", (), {"ru_maxrss": 2_500_000}))
    said = room.ran_out(case, 1, 0)  # KiB: getrusage(2)
    assert re.findall(r"[\d,.]+ GB", said) == ["2.6 GB", "12.3 GB", "1,536.0 GB"]


@pytest.mark.parametrize(
    ("limit", "expected"), [(room.resource.RLIM_INFINITY, 4096 * 1000), (4_095_999, 4_095_999), (5_000_000, 4_096_000)]
)
def test_a_process_may_have_the_machines_memory_or_a_lower_limit_on_its_address_space(monkeypatch, limit, expected):
    """sysconf(3): pages, and bytes of a page; getrlimit(2): the soft limit is the one that is enforced."""
    monkeypatch.setattr(room.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.get)
    asked = []
    monkeypatch.setattr(room.resource, "getrlimit", lambda which: asked.append(which) or (limit, 1))
    assert room.memory_bytes() == expected
    assert asked == [room.resource.RLIMIT_AS]
