"""What the shipped scenarios give does not change without a word."""

import json

import pytest
from fingerprints import KEPT, SHIPPED, fingerprint


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_tables_of_a_shipped_scenario_are_what_they_were(path):
    assert json.loads(KEPT.read_text()).get(path.stem) == fingerprint(path)


def test_no_fingerprint_is_kept_of_a_scenario_that_is_not_shipped():
    assert set(json.loads(KEPT.read_text())) == {path.stem for path in SHIPPED}
