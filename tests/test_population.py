"""What a case makes of a host, before anything has run."""

import pytest
from hosts import hosted, only, with_little

from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_v7_3 import EevdfRunQueueV73

PLAIN = '[threads.t]\ncount = 2\ncompute = "1 ms"\n'
GROUPED = PLAIN + 'group = "a"\n[groups.a]\n[groups.b]\n'


@pytest.mark.parametrize(("threads", "queues"), [(PLAIN, 1), (GROUPED, 3)])
@pytest.mark.parametrize(("kernel", "kind"), [("v6.18", EevdfRunQueue), ("v7.3", EevdfRunQueueV73)])
def test_each_run_queue_has_its_kernels_rules_and_lets_a_yield_force_its_cpu_once_in_6_ms(
    kernel, kind, threads, queues
):
    """Also those of groups: the series counts on each run queue (directed_yield.py)."""
    text = with_little("a host", "1 ms") + f'kernel = ["{kernel}"]\ntsc = "2 GHz"\nhz = 1000\nbase_slice = "3 ms"\n'
    _env, host = hosted(only(text + threads))
    for cpu in host.cpus:
        rq = cpu.rq
        found = [rq] if queues == 1 else [rq._root, *(own.queue for own in rq._entities.values())]
        assert [type(each) for each in found] == [kind] * queues
        assert {(each.forced_every, each._base_slice, each._tick) for each in found} == {
            (12_000_000, 6_000_000, 2_000_000)
        }
