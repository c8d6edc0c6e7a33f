"""The fault suite: faults by moments, each a real process or a real damaged file; `make faults` runs it."""
