"""Anchors: published experiments, what the model predicts for them, and whether that is evidence.

The experiments are data (anchors.toml): what was published, by whom and when, and the sequence of the kernel model
that it corresponds to (:mod:`.experiments`).  A prediction is that sequence priced with the cost table of the CPU
(:mod:`.predictions`).  A published number from which a row of that table was taken, or by which its range was chosen,
is no evidence for the model; the table's own sources say so.
"""
