"""From a trace to a scenario: what its threads and vCPUs do, as empirical distributions."""
