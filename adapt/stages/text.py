"""Stage `text`: normalise the domain text and set lines aside."""

from __future__ import annotations

from pathlib import Path

from adapt.run import StageResult, write_text
from adapt.stages.context import Run
from adapt.stages.plan import corpus_of, held_out_texts, sets_of
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS
from adapt.text.swap import swap_entities


def text(run: Run) -> StageResult:
    """Normalise, drop duplicates and leaks, set lines aside, add copies for the entities of the lexicon."""
    recipe, normalise = run.recipe, NORMALISERS[run.recipe.data.normaliser]
    outputs = ["text/train.txt", "text/dev.txt", "text/leaks.txt", "text/copies.txt"]

    def work(scratch: Path) -> None:
        corpus, copies = corpus_of(recipe), []
        if recipe.data.lexicon:
            lexicon = read_lexicon(recipe.data.lexicon)
            copies = swap_entities(corpus.train, lexicon, normalise, recipe.data.entity_copies, recipe.seed)
        held_out = {normalise(text) for text in held_out_texts(recipe)}
        copies = [line for line in copies if line not in held_out]
        for name, lines in zip(outputs, (corpus.train, corpus.dev, corpus.leaks, copies), strict=True):
            write_text(run.path(name), "".join(line + "\n" for line in lines))

    keys = ("normaliser", "dev_lines", "entity_copies")
    settings = {"data": {key: getattr(recipe.data, key) for key in keys}, "seed": recipe.seed}
    inputs = [recipe.data.text, *sets_of(recipe).values()]
    inputs += [recipe.data.lexicon] if recipe.data.lexicon else []
    result = run.folder.stage("text", settings, inputs, outputs, work)
    train, dev, copies = (lines_of(run.path(outputs[i])) for i in (0, 1, 3))
    run.report(result, f"{len(train):,} train, {len(copies):,} copies with other entities, {len(dev):,} dev")
    return result


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def training_text(run: Run) -> list[str]:
    return lines_of(run.path("text/train.txt")) + lines_of(run.path("text/copies.txt"))
