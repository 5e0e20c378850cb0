"""The stages of a recipe in order, and a list of runs.

To add a stage, write one file in `adapt/stages/`, and its line here.
"""

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
from adapt.stages.slot_generator import slot_generator
from adapt.stages.soft_prompt import soft_prompt
from adapt.stages.speech import speech
from adapt.stages.systems import reads_ngrams, systems
from adapt.stages.terms import terms
from adapt.stages.text import text
from adapt.stages.transcribe import transcribe
from adapt.text.template import parse


def adapt(run: Run) -> None:
    """Run the stages that lead to an adapter. Raises RecipeError for a base that lacks the CTC head that it needs."""
    plan.lists_names(run.recipe)  # raises before the first stage
    learns_soft_prompt = plan.learns_soft_prompt(run.recipe)  # so does this
    prepare(run)
    if learns_soft_prompt:
        soft_prompt(run)
    if plan.pseudo_audio(run.recipe) == "generate":
        slot_generator(run)
    decoder(run)


def prepare(run: Run) -> None:
    """Run the stages before the training on text."""
    write_text(run.path("recipe.yaml"), dump(run.recipe))
    text(run)
    if plan.finds_terms(run.recipe):
        terms(run)
    if plan.pseudo_audio(run.recipe) == "speech":
        speech(run)
    if plan.learns_from_pairs(run.recipe):
        project(run)


def estimate_lms(run: Run) -> None:
    """Run the stage `lm` if a system reads an n-gram LM."""
    if any(map(reads_ngrams, systems(run).values())):
        lm(run)


def run_all(run: Run) -> str:
    """Run every stage that the recipe needs, and return the table of scores; "" if the recipe names no set to score."""
    check(run)
    adapt(run)
    estimate_lms(run)
    if not plan.scored_sets(run.recipe):
        return ""
    transcribe(run)
    return score(run)


def check(run: Run) -> None:
    """Raise errors that would otherwise occur only after the training."""
    for manifest in plan.scored_sets(run.recipe).values():
        run.manifests.seconds(manifest)
    weights = [system.weights for system in systems(run).values() if system.weights and system.of != "ctc"]
    check_fusion(run, weights)
    if plan.learns_from_pairs(run.recipe):
        parse(plan.prompt_template(run.recipe))


def list_runs(folder: Path) -> list[dict]:
    """The runs in a folder: `{"run", "base", "stages", "rows"}`. Raises DataError if the folder has none.

    stages: those that are done. rows: the scores of the first and of the last system on the target set, `{"system",
    "wer", "eer"}`.
    """
    runs = []
    for record in sorted(folder.glob("*/run.json")):
        try:
            stages = read_stages(record)
        except DataError:  # one broken record does not hide the others
            runs.append({"run": str(record.parent), "base": None, "stages": ["(run.json is broken)"], "rows": []})
            continue
        bases = [stage["settings"]["base"] for stage in stages.values() if "base" in stage.get("settings", {})]
        names = {base["name"] if isinstance(base, dict) else str(base) for base in bases}
        scores = record.parent / "scores/metrics.json"
        rows = read_json(scores)["rows"] if scores.exists() else []
        rows = [{key: row[key] for key in ("system", "wer", "eer")} for row in rows if row["set"] == "target"]
        runs.append(
            {
                "run": str(record.parent),
                "base": names.pop() if len(names) == 1 else None,
                "stages": list(dict.fromkeys(name.split("-")[0] for name in stages)),
                "rows": [*rows[:1], *rows[1:][-1:]],
            }
        )
    if not runs:
        raise DataError(f"{folder}: holds no runs; `adapt run RECIPE` makes one in runs/")
    return runs
