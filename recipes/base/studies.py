"""The studies of arXiv 2307.11795 at the size of this recipe: stride, LoRA, projector, explicit loss and LLM size.

python recipes/base/studies.py stride recipes/base runs/base

Each row of the table is a run of `adapt base` with one key changed. It reuses the encoder of a finished run and, unless
the study changes the size of the decoder, also its decoder. Rows that are finished are not run again. The table goes to
standard output, and a plot to the folder of the study.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

SIZES = {"0.8 M": (128, 4), "2.4 M": (192, 6), "4.2 M": (256, 6)}  # parameters of the decoder: width, layers
STUDIES: dict[str, dict[str, dict[str, object]]] = {
    "stride": {f"{40 * stack} ms": {"align.stack": stack} for stack in (1, 2, 4, 6, 8, 12, 24)},
    "decoder": {
        "frozen": {"align.decoder": "frozen"},
        **{f"LoRA, rank {r}": {"align.decoder": "lora", "align.rank": r, "align.alpha": 2 * r} for r in (2, 8, 32)},
        "all of it": {"align.decoder": "full"},
    },
    "projector": {name: {"align.projector": name} for name in ("linear", "mlp", "conv")},
    "explicit": {name: {"align.explicit": name} for name in ("none", "letters", "ctc")},
    "llm": {
        name: {"llm.hidden_size": width, "llm.layers": layers, "llm.intermediate_size": 2 * width}
        for name, (width, layers) in SIZES.items()
    },
}


def measured(name: str, out: Path, recipe: str, keys: Mapping[str, object]) -> dict:
    """Run `adapt base` with the changed keys into `out` and return its figures, or read them if it is finished."""
    found = out / "row.json"
    if found.exists():
        return json.loads(found.read_text(encoding="utf-8"))
    changed = [part for key, value in keys.items() for part in ("-s", f"{key}={value}")]
    started = time.perf_counter()
    with subprocess.Popen(
        ["adapt", "base", recipe, "-o", str(out), "--json", *changed], stdout=subprocess.PIPE, text=True
    ) as process:
        told = json.loads(process.stdout.read() or "{}")
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    stages = json.loads((out / "run.json").read_text(encoding="utf-8"))["stages"]
    figures = {
        "name": name,
        "wers": {f"{row['set']} {row['system']}": row["wer"] for row in told["rows"]},
        "monotonicity": told["monotonicity"],
        "align_seconds": stages["align"]["seconds"],
        "test_seconds": stages["test-llm"]["seconds"],
        "gigabytes": used.ru_maxrss / 2**20,
        "seconds": time.perf_counter() - started,
    }
    found.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def keys_of(changes: Sequence[str]) -> dict[str, object]:
    """The keys and values of `-s KEY=VALUE`. Raises click.UsageError for one without a value."""
    for change in changes:
        if "=" not in change:
            raise click.UsageError(f"-s {change}: no value; write -s KEY=VALUE")
    return dict(change.split("=", 1) for change in changes)


def _given(study: str, run: Path) -> dict[str, object]:
    """The keys that take the parts of a finished run."""
    given = {"encoder.start": run.resolve() / "encoder", "encoder.steps": 0}
    if study != "llm":
        given |= {"llm.start": run.resolve() / "llm", "llm.lm_steps": 0, "llm.read_steps": 0}
    return given


def plot(study: str, rows: list[dict], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    axis.plot([r["name"] for r in rows], [100 * r["wers"]["test llm"] for r in rows], marker="o", label="decoder")
    axis.axhline(100 * rows[0]["wers"]["test ctc"], color="grey", linestyle="--", label="encoder alone (CTC)")
    axis.set_ylabel("WER, %")
    axis.set_ylim(bottom=0)
    axis.set_title(study)
    axis.legend()
    figure.savefig(out, dpi=120)


@click.command()
@click.argument("study", type=click.Choice(list(STUDIES)))
@click.argument("recipe")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-s", "--set", "more", multiple=True, metavar="KEY=VALUE", help="In every row, e.g. align.steps=400.")
def main(study: str, recipe: str, run: Path, more: tuple[str, ...]) -> None:
    """Measure STUDY with the parts trained in RUN, the folder of a finished `adapt base RECIPE`."""
    folder = run.parent / f"{run.name}-{study}"
    given = {**_given(study, run), **keys_of(more)}
    rows = [
        measured(name, folder / name.replace(" ", "-").replace(",", ""), recipe, {**given, **keys})
        for name, keys in STUDIES[study].items()
    ]
    plot(study, rows, folder / "wer.png")
    click.echo(f"| {study} | WER | CTC | monotonicity | align, s | test, s | memory, GB |")
    click.echo("|---|---|---|---|---|---|---|")
    for r in rows:
        order = ", ".join(f"{units} {value:.3f}" for units, value in r["monotonicity"].items())
        click.echo(
            f"| {r['name']} | {100 * r['wers']['test llm']:.1f} | {100 * r['wers']['test ctc']:.1f} | {order} "
            f"| {r['align_seconds']:.0f} "
            f"| {r['test_seconds']:.0f} | {r['gigabytes']:.1f} |"
        )


if __name__ == "__main__":
    main()
