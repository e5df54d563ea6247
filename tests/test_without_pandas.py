"""What does not wait for the import of pandas, a third of a second of CPU time."""

import subprocess
import sys
from pathlib import Path

import worlds

from sim.results import Record


def test_a_run_in_a_directory_does_not_wait_for_pandas(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(worlds.small(replications=2, measure="1 ms"))
    code = (
        f"import sys, sim; sim.run({str(path)!r}, out={str(tmp_path / 'r')!r}, jobs=1); print('pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout == "False\n", done.stderr


def test_importing_the_package_or_a_record_does_not_wait_for_pandas():
    code = "import sys, sim; from sim.results import Record; print('pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout == "False\n", done.stderr
    assert Record.__module__ == "sim.results.record"
