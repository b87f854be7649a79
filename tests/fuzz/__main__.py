"""Fuzz one parser, guided by what of its code an input reaches: `python -m fuzz TARGET [options of libFuzzer]`.

`-runs=N` and `-max_total_time=SECONDS` bound it; build/fuzz keeps what was learnt. Without a target: their names.
Run with tests/ on the path of Python. A finding ends it with the input written to a file, which `… TARGET FILE` tries
again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kronos"]):
    # What targets import when they first run is instrumented too.
    from fuzz.targets import TARGETS


LEARNT = Path(__file__).resolve().parents[2] / "build/fuzz"


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print("\n".join(TARGETS))
        sys.exit(2 if len(sys.argv) > 1 else 0)
    target = TARGETS[sys.argv[1]]
    with atheris.instrument_imports(include=["kronos"]):
        target.run(target.seeds[0])
    corpus = LEARNT / sys.argv[1]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    words = Path(f"{corpus}.words")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    given = [word for word in sys.argv[2:] if word.startswith("-")]
    folders = [word for word in sys.argv[2:] if not word.startswith("-")]
    limits = ["-timeout=30", "-rss_limit_mb=512", "-max_len=4096"]
    limits += [f"-dict={words}"] if target.words else []
    whole = any(Path(word).is_file() for word in folders)
    atheris.Setup([sys.argv[0], *limits, *given, *folders, *([] if whole else [str(corpus)])], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
