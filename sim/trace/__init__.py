"""Recorded traces of real hosts: read, checked against the kernel model, priced, and drawn on a timeline."""
