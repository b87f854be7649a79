"""Metrics: which values come of which counters, and which rows of which archives a client gets."""
