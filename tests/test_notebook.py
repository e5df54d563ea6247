"""The notebook runs, on fewer replications and strategies than it is meant for."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytest.importorskip("sim.host.simulation")

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def test_the_notebook_goes_from_the_question_to_the_answer(monkeypatch):
    monkeypatch.setenv("FPSWITCH_REPLICATIONS", "2")
    monkeypatch.setenv("FPSWITCH_STRATEGIES", "free-ssp,manual-load,xstate-guest")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    notebook = nbformat.read(NOTEBOOKS / "rfc_question.ipynb", as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert "ANSWER" in outputs[-1]["text"]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
