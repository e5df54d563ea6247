"""The simulated host against queueing theory: what is known in closed form, and hosts that are as the theory wants."""
