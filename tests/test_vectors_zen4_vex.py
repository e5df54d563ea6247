"""Instructions with a VEX prefix on a Zen 4; left to itself, the model is in tests/test_vectors_ring0.py."""

import pytest
from vectors import DATA

from sim.verification.vectors.drive import verify
from sim.xsave.profiles import profile


def test_driven_the_model_agrees_with_every_vector_with_vex_prefixes() -> None:
    result = verify(DATA / "zen4" / "zen4-vex.jsonl.gz")
    assert (result.vectors, result.departures) == (160, [])


@pytest.mark.parametrize("name", ["zen2", "zen3", "zen5"])
def test_the_other_zens_are_taken_to_do_what_vex_prefixes_do_on_zen_4(name: str) -> None:
    free, zen4 = profile(name).freedoms, profile("zen4").freedoms
    assert (free.ymm_write_group, free.vex_write_initialises_above) == (zen4.ymm_write_group, True)
