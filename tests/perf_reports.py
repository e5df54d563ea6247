"""A report of `perf kvm stat`."""

from pathlib import Path

REPORT = (Path(__file__).parent / "data" / "perf" / "kvm-stat-report.txt").read_text(encoding="utf-8")
