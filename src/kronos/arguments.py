"""The words that the command `xapi` is given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kronos import __version__
from kronos.system.settings import CONFIGURATION, Settings, SettingsWrong, is_list, read


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="xapi",
        description="The XenAPI toolstack of this host.",
        epilog="Settings: docs/settings.md, xapi(8).",
    )
    parser.add_argument("--version", action="version", version=f"xapi {__version__}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings, TOML (default: {CONFIGURATION})"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say what this host lacks to run guests and what to do about it, and end: 0 if they can run, else 1",
    )
    parser.add_argument("--json", action="store_true", help="with --check: as one JSON document")
    parser.add_argument(
        "--release",
        action="store_true",
        help="take back the bridges, addresses and rules that no guest uses, and end; while xapi is stopped",
    )
    parser.add_argument(
        "--free-disks",
        action="store_true",
        help="print the disks without data that the setting local_disks may name, and end: device, size in bytes and "
        "model, a line each, with tabs between; removable ones are left out",
    )
    parser.add_argument(
        "--coverage",
        nargs="?",
        const="served",
        choices=("served", "unserved"),
        metavar="unserved",
        help="print how many messages of each class are served, and end; with =unserved, which are not, a line for a "
        "class and what they wait for",
    )
    parser.add_argument(
        "--rbac",
        action="store_true",
        help="print which role has which permission, in the form of rbac_static.csv, and end",
    )
    parser.add_argument(
        "-o",
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override one setting; repeatable",
    )
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """Raises SettingsWrong."""
    overrides: dict[str, Any] = {}
    for pair in options.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SettingsWrong(f"--set takes NAME=VALUE, not {pair}")
        value: Any = text
        if text in ("true", "false"):
            value = text == "true"
        elif text.isdigit():
            value = int(text)
        elif is_list(name):
            value = [each for each in text.split(",") if each]
        overrides[name] = value
    return read(options.config or CONFIGURATION, overrides, may_be_missing=options.config is None)
