"""Stage `decoder`: tune the decoder on text."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from adapt.run import StageResult, write_json
from adapt.stages.context import Run
from adapt.stages.plan import (
    NEEDS_SOFT_PROMPT,
    SIMULATES,
    SOFT_PROMPT,
    audio_of,
    base_of,
    projected_files,
    pseudo_audio_of,
    reading_settings,
)
from adapt.stages.project import best_note
from adapt.stages.text import lines_of, training_text


def decoder(run: Run) -> StageResult:
    """Stage 2: LoRA on the decoder, conditioned on pseudo audio: `adapter/`."""
    recipe = run.recipe
    settings_of = dataclasses.replace(recipe.decoder, pseudo_audio=pseudo_audio_of(recipe))
    needs_prompt = settings_of.pseudo_audio in NEEDS_SOFT_PROMPT

    def work(scratch: Path) -> None:
        from adapt.model import soft_prompt
        from adapt.train.decoder import tune_decoder

        replayed, guard = run.replay("source_replay"), run.replay("source_dev")
        llm = run.prompted(run.load(run.start))
        vectors = soft_prompt.load_soft_prompt(run.path(SOFT_PROMPT), llm) if needs_prompt else None
        shutil.rmtree(run.path("adapter"), ignore_errors=True)
        tuned = tune_decoder(
            llm,
            training_text(run),
            lines_of(run.path("text/dev.txt")),
            settings_of,
            soft_prompt=vectors,
            inventory=run.inventory() if settings_of.pseudo_audio in SIMULATES else None,
            replayed=replayed,
            guard=guard,
            folder=scratch,
            out=run.path("adapter"),
            name=recipe.name,
            seed=recipe.seed,
            precision=recipe.precision,
        )
        write_json(run.path("decoder/log.json"), dataclasses.asdict(tuned))

    settings = {
        **reading_settings(recipe),
        "decoder": dataclasses.asdict(settings_of),
        "base": base_of(recipe),
        "seed": recipe.seed,
        "precision": recipe.precision,
    }
    sources = [p for p in (recipe.data.source_replay, recipe.data.source_dev) if p]
    inputs = [run.path("text", f"{name}.txt") for name in ("train", "copies", "dev")]
    inputs += [*sources, *audio_of(*sources)]
    inputs += [run.path(SOFT_PROMPT)] if needs_prompt else []
    inputs += projected_files(run)
    result = run.folder.stage("decoder", settings, inputs, ["adapter", "decoder/log.json"], work)
    run.report(result, best_note(run.path("decoder/log.json")))
    return result
