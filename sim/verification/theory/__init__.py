"""The simulated host compared with queueing theory: what is known in closed form, and hosts that meet its
conditions."""
