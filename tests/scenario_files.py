"""A small scenario file."""

import json
import tomllib

import jsonschema
from pydantic import TypeAdapter

from sim.scenario import document
from sim.scenario.cases import cases
from sim.scenario.distribution import Times
from sim.scenario.reading import read

SMALL = """
title = "small"
[run]
measure = "10 ms"
[host]
cpus = 4
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
[guests.web]
[guests.web.exits.io]
every = "20 kHz"
"""


def written(folder, text, name="scenario.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def names(path, **overrides):
    return [case.name for case in cases(read(path, overrides))]


def times(value, kind=Times):
    return TypeAdapter(kind).validate_python(value)


SCHEMA = json.loads(document.SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def schema_errors(text):
    return [error.json_path for error in VALIDATOR.iter_errors(tomllib.loads(text))]
