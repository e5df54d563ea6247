"""Two hosts that many tests run: one with a guest of two vCPUs, and one whose guest has exits."""

import json


def small(strategies=("free-ssp", "manual-load"), cpu=("zen4",), replications=6, measure="20 ms"):
    return f"""
title = "Small"
[run]
measure = "{measure}"
replications = {replications}
strategies = {json.dumps(strategies)}
[host]
cpus = 2
cpu = {json.dumps(cpu)}
tsc = "2 GHz"
[guests.g]
vcpus = 2
"""


def web(strategies, cpu=("sapphire-rapids",), replications=3, run="", title="A host"):
    """``run`` are more lines of [run]."""
    return f"""
title = {json.dumps(title)}
[run]
measure = "50 ms"
replications = {replications}
strategies = {json.dumps(strategies)}
{run}
[host]
cpus = 4
cpu = {json.dumps(cpu)}
[guests.web]
vcpus = 8
[guests.web.exits]
timer = {{ every = "5 kHz" }}
"""
