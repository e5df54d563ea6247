"""A result directory is read by pandas alone, as docs/reference/result-directories.md shows it."""

import re
import shlex
from pathlib import Path

import pytest
import worlds
from command import run

import sim

PAGE = (Path(__file__).parent.parent / "docs/reference/result-directories.md").read_text(encoding="utf-8")
COMMAND, CODE, PRINTED = re.search(
    r"^    fpswitch (run [^\n]*)\n.*?```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL
).groups()
SMALL = worlds.web(["free-ssp", "manual-load", "xstate-guest"], cpu=["zen4"])


def test_what_pandas_adds_up_is_what_the_first_screen_says(run_in, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    results = run_in("results/zen4", jobs=1)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(CODE, found)
    said = sim.compare(results).answers
    for name, mean in found["own"].mean().drop("free-ssp").items():
        estimate = said.difference(results.cases[0]["case"], name, "free-ssp").own_without_xss
        assert mean == pytest.approx(estimate.mean / found["tsc_mhz"], rel=0.005)  # rows have whole cycles


@pytest.mark.slow
def test_the_page_shows_what_its_code_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *shlex.split(COMMAND), "--no-figures")[0] == 0
    exec(CODE, {})
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == PRINTED.splitlines()
