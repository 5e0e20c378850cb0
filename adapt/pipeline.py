"""The stages of a recipe in order."""

from __future__ import annotations

from adapt.recipe.load import dump
from adapt.run import write_text
from adapt.stages.context import Run
from adapt.stages.decoder import decoder
from adapt.stages.lm import lm
from adapt.stages.plan import NGRAMS, check_fusion, learns_soft_prompt, projects, scored, template_of, with_audio
from adapt.stages.project import project
from adapt.stages.score import score
from adapt.stages.soft_prompt import prompt
from adapt.stages.systems import systems
from adapt.stages.text import text
from adapt.stages.transcribe import transcribe
from adapt.text.corpus import durations, read_manifest
from adapt.text.template import parse


def adapt(run: Run) -> None:
    """The stages to an adapter: `adapter/`."""
    write_text(run.path("recipe.yaml"), dump(run.recipe))
    text(run)
    if projects(run.recipe):
        project(run)
    if learns_soft_prompt(run.recipe):
        prompt(run)
    decoder(run)


def run_all(run: Run) -> str:
    """Every stage that the recipe needs; the score table comes back, empty where the recipe names no set to score."""
    for manifest in scored(run.recipe).values():
        durations(with_audio(read_manifest(manifest)))  # what cannot be read is told now, not after the training
    weights = [system.weights for system in systems(run).values() if system.weights and system.of != "ctc"]
    check_fusion(run, weights, scored(run.recipe).values())
    if projects(run.recipe):
        parse(template_of(run.recipe))
    adapt(run)
    if any((system.weights or {}).get(part) for system in systems(run).values() for part in NGRAMS):
        lm(run)
    if not scored(run.recipe):
        return ""
    transcribe(run)
    return score(run)
