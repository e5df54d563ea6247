"""Device interrupts in arrays are those that the reference takes one by one."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from sim.engine.device_interrupts import DeviceInterrupts
from sim.host.interrupts import Devices, DeviceSource
from sim.host.streams import Draws, Instants

COMPONENTS = 7


def devices(sources, seed):
    """Of each source: the longest time between two, the longest that one takes, and how many use the FPU."""
    made = []
    for i, (longest, served, share) in enumerate(sources):
        gaps, cycles, uses = (np.random.default_rng([seed, i, what]) for what in range(3))
        made.append(
            DeviceSource(
                Instants(lambda n, gaps=gaps, longest=longest: gaps.integers(0, longest, n, endpoint=True)),
                Draws(lambda n, cycles=cycles, served=served: cycles.integers(1, served + 1, n)),
                Draws(lambda n, uses=uses, share=share: uses.random(n) < share),
                i,
            )
        )
    return Devices(made)


SOURCES = st.lists(
    st.tuples(st.integers(1, 500), st.integers(1, 99), st.sampled_from([0.0, 0.1, 1.0])), min_size=1, max_size=4
)


@given(
    SOURCES,
    st.integers(0, 99),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 60)), max_size=4),
)
@example([(1, 9, 0.5), (1, 9, 0.5)], 0, (0, 0), [(90, 200)] * 8)
def test_device_interrupts_in_arrays_are_those_that_the_reference_takes_one_by_one(sources, seed, earlier, steps):
    both = wanted, taken = devices(sources, seed), devices(sources, seed)
    for each in both:  # a host that has been populated, and has looked ahead
        each.time(sum(earlier))
        each.serve(earlier[0])
    found, served = DeviceInterrupts(taken, lambda components: components + COMPONENTS), 0
    for serve, ahead in [(0, 1), *steps]:
        columns = found.columns(served, ahead + serve + 1)
        assert all(each.flags.c_contiguous for each in columns)
        for i in range(ahead + serve + 1):
            components = wanted.components(i)
            point = -1 if components is None else components + COMPONENTS
            assert columns[:, i].tolist() == [wanted.time(i), wanted.cycles(i), point]
        wanted.serve(serve)
        served = serve
