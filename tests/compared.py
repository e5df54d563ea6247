"""A small scenario, run on the fake host."""

SCENARIO = """
title = "A comparison"
question = "Who is cheaper?"
[run]
measure = "50 ms"
replications = 10
strategies = ["free-ssp", "manual-load", "manual-lazy", "xstate-guest"]
[host]
cpus = 2
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
[guests.g]
vcpus = 2
"""
