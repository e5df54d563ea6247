"""The kernel model led along a trace, event for event."""
