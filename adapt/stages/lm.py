"""Stage `lm`: estimate n-grams."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adapt.run import StageResult, read_json
from adapt.stages.context import Run
from adapt.stages.plan import base_of, reading_settings
from adapt.stages.text import lines_of, training_text
from adapt.text.corpus import read_manifest, read_text
from adapt.text.normalise import NORMALISERS


def lm(run: Run) -> StageResult:
    """N-grams of the domain and of the source over the decoder's tokens, and over words: `lm/`."""
    recipe = run.recipe
    outputs = ["lm/tokens.arpa", "lm/tokens.json", "lm/words.arpa"]
    source = recipe.lm.source or recipe.data.source_replay
    if source:
        outputs += ["lm/source.arpa", "lm/source.json"]

    def work(scratch: Path) -> None:
        from adapt.lm.build import build_tokens, build_words
        from adapt.model.load import load_tokenizer

        tokenizer, size = load_tokenizer(recipe.base)
        dev, thresholds = lines_of(run.path("text/dev.txt")), (0, 0, recipe.lm.prune)
        text, order = training_text(run), recipe.lm.order
        out = run.path("lm/tokens.arpa")
        build_tokens(text, dev, tokenizer, size, order, thresholds, out, recipe.lm.tokens)
        build_words(text, order, thresholds, run.path("lm/words.arpa"), recipe.lm.words)
        if source:
            lines = read_text(source) if recipe.lm.source else [u.text for u in read_manifest(source)]
            lines = list(map(NORMALISERS[recipe.data.normaliser], lines))
            build_tokens(lines, dev, tokenizer, size, recipe.lm.source_order, (0,), run.path("lm/source.arpa"))

    settings = {**reading_settings(recipe), "lm": dataclasses.asdict(recipe.lm), "base": base_of(recipe)}
    inputs = [run.path("text", f"{name}.txt") for name in ("train", "copies", "dev")]
    inputs += [path for path in (source, recipe.lm.tokens, recipe.lm.words) if path]
    result = run.folder.stage("lm", settings, inputs, outputs, work)
    told = perplexities(run)[-1]
    run.report(result, f"{told['order']}-gram, {told['ngrams']:,} n-grams, dev perplexity {told['perplexity']:.1f}")
    return result


def perplexities(run: Run) -> list[dict]:
    """Of the model over tokens, for each order: `{"order", "ngrams", "perplexity", "unseen"}`."""
    return read_json(run.path("lm/tokens.json"))["orders"]
