"""Kronos: a XenAPI toolstack for stock Linux distributions."""

__version__ = "0.1.0"
__released__ = "20261121"
