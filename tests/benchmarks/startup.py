"""How long commands take to start: `adapt COMMAND --help` beside `python -c pass`."""

from __future__ import annotations

import functools
import subprocess
import sys

from timing import ADAPT, interleaved


def startup() -> list[dict]:
    """A row for each command, the median of 5; the last row has the slowest."""
    from adapt.cli import main

    run = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    calls = {"adapt": [ADAPT, "--help"]} | {f"adapt {name}": [ADAPT, name, "--help"] for name in main.commands}
    works = [functools.partial(run, call) for call in ([sys.executable, "-c", "pass"], *calls.values())]
    plain, *ours = interleaved(*works, repetitions=5)
    rows = [
        {"name": f"startup {name}", "ours_s": taken, "plain_s": plain, "ratio": taken / plain}
        for name, taken in zip(calls, ours, strict=True)
    ]
    slowest = max(rows, key=lambda row: row["ratio"])
    return [*rows, slowest | {"name": "startup", "slowest": slowest["name"].removeprefix("startup ")}]
