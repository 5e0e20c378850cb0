"""What the toolkit costs beside the plain way, measured in one run: `python tests/benchmarks/run.py [--json FILE]`.

Ratios are medians of interleaved repetitions, ours / plain, so that a busy machine slows both.
"""

from __future__ import annotations

import functools
import json
import os
import platform
from pathlib import Path

import click
from fusion import FUSION
from hardware import huge_pages, training_bf16
from processes import two_processes
from scale import growth
from scoring import bootstrap, scoring
from small import SMALL
from startup import startup
from training import TRAINING
from transcription import beam_search, joint_ctc, transcription

BENCHMARKS = {
    work.__name__: work
    for work in (
        startup,
        bootstrap,
        scoring,
        growth,
        training_bf16,
        *TRAINING,
        *SMALL,
        huge_pages,
        beam_search,
        joint_ctc,
        transcription,
        two_processes,
        *FUSION,
    )
}


def _shown(value: object) -> str:
    """A figure in a line of text."""
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the figures to this file.")
@click.option("--lines", default=1_000_000, show_default=True, type=click.IntRange(1_000), help="Most for `growth`.")
def main(names: tuple[str, ...], out: Path | None, lines: int) -> None:
    works = BENCHMARKS | {"growth": functools.partial(growth, lines)}
    rows = []
    for name in names or works:
        found = works[name]()
        new = found if isinstance(found, list) else [found]
        for row in new:
            click.echo("  ".join(f"{key} {_shown(value)}" for key, value in row.items()))
        rows += new
        if out:  # after each, so that a later one that fails takes no figures away
            _write(out, rows)


def _write(out: Path, rows: list[dict]) -> None:
    """Write all rows to a file, with their ratios by name."""
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    ratios = {row["name"]: row["ratio"] for row in rows if "ratio" in row}
    told = json.dumps({"machine": machine, "ratios": ratios, "rows": rows}, indent=2, allow_nan=False)
    out.write_text(told + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
