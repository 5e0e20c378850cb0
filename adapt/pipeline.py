"""The stages of a recipe in order, and the runs that there are."""

from __future__ import annotations

from pathlib import Path

from adapt.errors import DataError
from adapt.recipe.load import dump
from adapt.run import read_json, read_stages, write_text
from adapt.stages import plan
from adapt.stages.checks import check_fusion
from adapt.stages.context import Run
from adapt.stages.decoder import decoder
from adapt.stages.lm import lm
from adapt.stages.project import project
from adapt.stages.score import score
from adapt.stages.soft_prompt import soft_prompt
from adapt.stages.systems import reads_ngrams, systems
from adapt.stages.text import text
from adapt.stages.transcribe import transcribe
from adapt.text.template import parse


def adapt(run: Run) -> None:
    """The stages that lead to an adapter."""
    learns_soft_prompt = plan.learns_soft_prompt(run.recipe)  # raises where the base cannot have what the recipe wants
    write_text(run.path("recipe.yaml"), dump(run.recipe))
    text(run)
    if plan.learns_from_pairs(run.recipe):
        project(run)
    if learns_soft_prompt:
        soft_prompt(run)
    decoder(run)


def run_all(run: Run) -> str:
    """Every stage that the recipe needs; the score table comes back, empty where the recipe names no set to score."""
    _check(run)
    adapt(run)
    if any(map(reads_ngrams, systems(run).values())):
        lm(run)
    if not plan.scored_sets(run.recipe):
        return ""
    transcribe(run)
    return score(run)


def _check(run: Run) -> None:
    """Raise now what would otherwise be raised after the hours of training."""
    manifests = plan.scored_sets(run.recipe).values()
    for manifest in manifests:
        run.manifests.seconds(manifest)
    weights = [system.weights for system in systems(run).values() if system.weights and system.of != "ctc"]
    check_fusion(run, weights, manifests)
    if plan.learns_from_pairs(run.recipe):
        parse(plan.prompt_template(run.recipe))


def list_runs(folder: Path) -> list[dict]:
    """The runs in a folder: `{"run", "base", "stages", "rows"}`. Raises DataError where there is none.

    stages: those that are done. rows: the first and the last of the scores on the target set, `{"system", "wer",
    "eer"}`.
    """
    found = []
    for record in sorted(folder.glob("*/run.json")):
        try:
            stages = read_stages(record)
        except DataError:  # one broken record does not hide the others
            found.append({"run": str(record.parent), "base": None, "stages": ["(run.json is broken)"], "rows": []})
            continue
        bases = [stage["settings"]["base"] for stage in stages.values() if "base" in stage.get("settings", {})]
        names = {base["name"] if isinstance(base, dict) else str(base) for base in bases}
        scores = record.parent / "scores/metrics.json"
        rows = read_json(scores)["rows"] if scores.exists() else []
        rows = [{key: row[key] for key in ("system", "wer", "eer")} for row in rows if row["set"] == "target"]
        found.append(
            {
                "run": str(record.parent),
                "base": names.pop() if len(names) == 1 else None,
                "stages": list(dict.fromkeys(name.split("-")[0] for name in stages)),
                "rows": [*rows[:1], *rows[1:][-1:]],
            }
        )
    if not found:
        raise DataError(f"{folder}: holds no runs; `adapt run RECIPE` makes one in runs/")
    return found
