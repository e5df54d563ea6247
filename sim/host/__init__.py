"""The host in time: CPUs, the scheduler, threads and vCPUs, on SimPy."""
