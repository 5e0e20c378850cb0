"""The logs of the training stages in a run folder."""

from __future__ import annotations

from adapt.run import read_json
from adapt.stages.context import Run


def checkpoint_note(run: Run, name: str) -> str:
    """The checkpoint that a training kept, in a few words. name: the log in the run folder."""
    result = read_json(run.path(name))
    if not result["log"]:
        return "used as given, without training"
    best = result["best_step"]
    row = next(row for row in result["log"] if row["step"] == best and "dev_loss" in row)
    guard = f", guard {row['guard_loss']:.2f}" if "guard_loss" in row else ""
    return f"best at step {best} (dev {row['dev_loss']:.2f}{guard})"


def curves(run: Run, stages: tuple[str, ...]) -> dict[str, list[dict]]:
    """The losses of each training stage by its name, for the report. stages: the folders of the stages."""
    return {stage: read_json(run.path(stage, "log.json"))["log"] for stage in stages}
