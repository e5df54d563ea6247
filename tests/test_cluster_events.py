"""What happens to a cluster of real processes: each run ends, or is continued, with the same bytes."""

import pytest

pytest.importorskip("distributed")

from sim.verification.kill import cluster


@pytest.mark.slow
@pytest.mark.parametrize("name", cluster.EVENTS)
def test_whatever_happens_to_a_cluster_the_tables_are_the_same_bytes(name, tmp_path):
    """Some twenty seconds each."""
    if name == cluster.CUT and not cluster.can_cut():
        pytest.skip("a network namespace needs root and ip(8)")
    [event] = cluster.events(tmp_path, [name])
    assert event.problems == []
    assert event.how.startswith(("the run ended well", "continued ", "its workers ended; continued "))
