"""The first screen of a host, and what must hold of every first screen."""

import re

import fake_host
import worlds

import sim
from sim import experiment
from sim.report.answer import LINES

WIDTH = 72
MAIL = 15

HOST = worlds.web(["free-ssp", "no-cet", "manual-load", "xstate-all", "xstate-guest"])


def fits(comparison):
    """The first screen, which fits, and so does the mail, and the document is JSON."""
    text, mail = comparison.answer(), comparison.mail()
    for each, most in ((text, LINES), (mail, MAIL)):
        lines = each.splitlines()
        assert len(lines) <= most, each
        assert max(map(len, lines)) <= WIDTH, max(lines, key=len)
        assert not [line for line in lines if line != line.rstrip()], each
        assert each.isascii()
        _, _, below_title = each.rpartition("=====")
        assert not re.search(r"\bnan\b|\binf\b|None", below_title), each
        assert not re.search(r"\dx?[kMG]-\d.*to|[kMG]\]-\d|- - -|<= +-", below_title), each  # columns that run together
    return text


def flat(text):
    return " ".join(text.split())


def fake(name, **options):
    """A comparison of a shipped scenario on the fake simulation."""
    return sim.compare(experiment.run(name, **{"replications": 3, "jobs": 1, "simulate": fake_host.simulate} | options))
