"""What the model is given does not change while it runs: its data classes are frozen."""

import importlib
from dataclasses import is_dataclass
from pathlib import Path

import pytest

SIM = Path(__file__).parent.parent / "sim"
BUILT_UP = {"_Node", "_Boot", "ExitKind", "_Seen"}
"""Filled while a text is read, exits are drawn, or a host is watched."""


@pytest.mark.parametrize("room", ["xsave", "kernel", "host"])
def test_a_data_class_is_frozen(room):
    for path in sorted((SIM / room).glob("*.py")):
        module = importlib.import_module(f"sim.{room}.{path.stem}")
        for name, each in vars(module).items():
            if is_dataclass(each) and each.__module__ == module.__name__:
                assert each.__dataclass_params__.frozen == (name not in BUILT_UP), name
