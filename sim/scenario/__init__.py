"""The scenario file: what host is simulated, under which load, with which strategies.

:func:`sim.scenario.reading.read` makes a checked and complete :class:`~sim.scenario.schema.Scenario` of a file, and
:func:`sim.scenario.cases.cases` the cases that are simulated.
"""
