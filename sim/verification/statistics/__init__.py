"""Statistical claims checked with many repetitions: coverage of intervals, and own operations per event."""
