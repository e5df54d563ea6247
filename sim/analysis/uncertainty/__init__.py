"""How sure a comparison is, given that most costs are ranges: a run priced again with every draw of its cost table.

A price is linear in the rows of the table, but for the ratio of the clocks, which divides those in core cycles
(:mod:`sim.costs.price`).  So a run is, per strategy and replication, one vector of coefficients over the rows
(:mod:`.counted`), of which the mean, what two strategies do differently (:mod:`.seen`) and draws of the mean
(:mod:`.means`) are kept; ten thousand draws of the rows (:mod:`.draws`) price them (:mod:`.pricing`).  What follows
from that: which factor explains the variance of a difference (:mod:`.shares`), at which value of a row an order turns
(:mod:`.breakeven`), what to measure next (:mod:`.measure`).  What repricing cannot see, that costs feed back into
simulated time, is asked of the simulator itself (:mod:`.resimulation`).
"""
