"""Statistical claims held against many repetitions: coverage of intervals, and own operations per event."""
