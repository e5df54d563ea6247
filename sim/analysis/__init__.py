"""What results say: categories, metrics with intervals, paired differences, what they rest on, and figures."""
