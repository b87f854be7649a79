"""Benchmarks: each goal beside its floor in the same run. `python -m bench --help` says how."""
