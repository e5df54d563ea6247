"""The compiled engine: the replication of sim.host in one loop over arrays, with the kernel model as a table."""
