"""An SR in a directory: qcow2 and raw files, a small JSON file for each volume. `driver` ties it together.

docs/storage.md describes the layout and the rules.
"""
