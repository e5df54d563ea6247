"""The processor: XSAVE state components, areas and instructions."""
