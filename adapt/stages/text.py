"""Stage `text`: normalise the domain text, drop duplicates and leaks, hold out lines, add copies for entities."""

from __future__ import annotations

import logging
from pathlib import Path

from adapt.run import write_text
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS
from adapt.text.swap import swap_entities

log = logging.getLogger(__name__)
FILES = (plan.TRAIN, plan.COPIES, plan.DEV)  # the inputs of later stages


def text(run: Run) -> None:
    """Write `text/`: training lines, their copies with other entities, development lines, and the leaks."""
    recipe, normalise = run.recipe, NORMALISERS[run.recipe.data.normaliser]

    def work(scratch: Path) -> None:
        corpus, copies = plan.corpus(recipe, run.manifests), []
        if corpus.sampled:
            log.warning("text: %s", corpus.sampled)
        if corpus.remark:
            log.warning("text: %s; %s", corpus.remark, plan.WRITE)
        if recipe.data.lexicon:
            lexicon = read_lexicon(recipe.data.lexicon)
            copies = swap_entities(corpus.train, lexicon, normalise, recipe.data.entity_copies, recipe.seed)
        held_out = {normalise(text) for text in plan.held_out_texts(recipe, run.manifests)}
        copies = plan.written(recipe, [line for line in copies if line not in held_out]).kept
        files = {plan.TRAIN: corpus.train, plan.DEV: corpus.dev, plan.LEAKS: corpus.leaks, plan.COPIES: copies}
        for name, lines in files.items():
            write_text(run.path(name), "".join(line + "\n" for line in lines))

    def note() -> str:
        train, copies, dev = (len(run.lines(name)) for name in FILES)
        return f"{train:,} train, {copies:,} copies with other entities, {dev:,} dev"

    keys = ("normaliser", "unwritable", "dev_lines", "entity_copies")
    data = {key: getattr(recipe.data, key) for key in keys} | plan.text_record(recipe)
    settings = {"data": data, "seed": recipe.seed}
    settings["base"] = plan.base_record(recipe)
    files = (recipe.data.text, *plan.sets(recipe).values(), recipe.data.lexicon)
    inputs = [file for file in files if isinstance(file, Path)]
    run.stage("text", settings, inputs, [*FILES, plan.LEAKS], work, note)


def training_text(run: Run) -> list[str]:
    """The sentences to train on: the lines of the domain text, and their copies with other entities."""
    return run.lines(plan.TRAIN) + run.lines(plan.COPIES)
