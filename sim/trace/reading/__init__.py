"""The text of a trace as tables of numbers."""
