"""Stage `generator`: a network that generates audio embeddings of sentences, learned from the source domain's audio."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adapt.errors import DataError
from adapt.run import read_json, write_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.log import checkpoint_note

LOG = "generator/log.json"


def slot_generator(run: Run) -> None:
    """Write `generator/generator.safetensors`. Raises DataError if fewer than two recordings can be used."""
    recipe = run.recipe

    def work(scratch: Path) -> None:
        from adapt.train.slot_generator import learn_slot_generator

        texts = [u.text for u in run.transcribed("source_replay")]
        embeddings = run.source_audio("source_replay").embeddings
        pairs = [pair for pair in zip(texts, embeddings, strict=True) if len(pair[1])]
        if len(pairs) < 2:
            raise DataError(f"{recipe.data.source_replay}: the generator needs two recordings with words; give more")
        out = run.path(plan.GENERATOR)
        result = learn_slot_generator(*zip(*pairs, strict=True), folder=scratch, out=out, seed=recipe.seed)
        if run.folder.ranks.is_first:
            write_json(run.path(LOG), dataclasses.asdict(result))

    def note() -> str:
        result = read_json(run.path(LOG))
        cosine = next(row["cosine"] for row in result["log"] if row["step"] == result["best_step"] and "cosine" in row)
        return f"{checkpoint_note(run, LOG)}, cosine to real audio {cosine:.2f}"

    record = {**plan.transcripts_record(recipe), "base": plan.base_record(recipe), "seed": recipe.seed}
    inputs = run.paths(plan.projected(recipe)) + run.manifests.files(recipe.data.source_replay)
    run.stage("generator", record, inputs, [plan.GENERATOR, LOG], work, note, shared=True)
