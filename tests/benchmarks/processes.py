"""Two processes beside one, each with one thread, from the start of the command to its end."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from timing import MUSIC, Cost, cost

ONE = [sys.executable, "-m", "adapt"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "adapt"]
RECIPE = """base: tiny
data: {text: text.txt, dev_lines: 50}
decoder: {steps: 40, eval_every: 40}
"""


def _compared(name: str, repetitions: int, command) -> dict:
    """The row of a benchmark. command: returns the words of the command that writes to a path."""
    pairs: list[list[Cost]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repetitions):
            outs = [Path(folder, f"{way}{number}") for way in ("two", "one")]
            pairs.append(
                [
                    cost(*launcher, *command(out), environment={"OMP_NUM_THREADS": "1"})
                    for launcher, out in zip((TWO, ONE), outs, strict=True)
                ]
            )
    two, one = (statistics.median(cost.seconds for cost in column) for column in zip(*pairs, strict=True))
    gigabytes = dict(zip(("ours_gb_each", "plain_gb"), (cost.gigabytes for cost in pairs[0]), strict=True))
    return {"name": name, "ours_s": two, "plain_s": one, **gigabytes, "ratio": two / one}


def two_processes() -> list[dict]:
    """`adapt transcribe` of 300 recordings, and 40 steps of `adapt decoder`."""
    options = ["--base", "tiny", "--device", "cpu", "--ctc-weight", 0]
    rows = [
        _compared(
            "two_processes_transcribe",
            3,
            lambda out: ["transcribe", MUSIC / "test.jsonl", *options, "--out", out.with_suffix(".jsonl")],
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder)
        lines = (MUSIC / "text.txt").read_text().splitlines()[:2_000]
        (recipe / "text.txt").write_text("\n".join(lines) + "\n")
        (recipe / "recipe.yaml").write_text(RECIPE)
        train = ["decoder", recipe, "--device", "cpu", "-o"]
        return [*rows, _compared("two_processes_train", 3, lambda out: [*train, out])]
