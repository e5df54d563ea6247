"""Test vectors of the XSAVE instructions: their schema, their values, and running them against the processor model."""
