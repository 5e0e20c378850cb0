"""Stage `lm`: n-gram LMs of the domain and of the source over the decoder's tokens, and of the domain over words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adapt.run import read_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.text import FILES, training_text
from adapt.text.corpus import read_text
from adapt.text.normalise import NORMALISERS

TOKENS_LOG, SOURCE_LOG = "lm/tokens.json", "lm/source.json"


def lm(run: Run) -> None:
    """Write ARPA files to `lm/`."""
    recipe = run.recipe
    source = recipe.lm.source or recipe.data.source_replay
    outputs = [plan.TOKENS_LM, TOKENS_LOG, plan.WORDS_LM, *([plan.SOURCE_LM, SOURCE_LOG] if source else [])]

    def work(scratch: Path) -> None:
        from adapt.lm.build import build_tokens, build_words
        from adapt.model.load import load_tokenizer

        tokenizer, size = load_tokenizer(recipe.base)
        dev, prune, order = run.lines(plan.DEV), (0, 0, recipe.lm.prune), recipe.lm.order
        text = training_text(run)
        build_tokens(text, dev, tokenizer, size, order, prune, run.path(plan.TOKENS_LM), recipe.lm.tokens)
        build_words(text, order, prune, run.path(plan.WORDS_LM), recipe.lm.words)
        if source:
            lines = read_text(source) if recipe.lm.source else [u.text for u in run.manifests.utterances(source)]
            lines = list(map(NORMALISERS[recipe.data.normaliser], lines))
            build_tokens(lines, dev, tokenizer, size, recipe.lm.source_order, (0,), run.path(plan.SOURCE_LM))

    def note() -> str:
        longest = perplexities(run)[-1]
        return f"{longest['order']}-gram, {longest['ngrams']:,} n-grams, dev perplexity {longest['perplexity']:.1f}"

    settings = {
        **plan.normaliser_record(recipe),
        "lm": dataclasses.asdict(recipe.lm),
        "base": plan.base_record(recipe),
    }
    inputs = run.paths(*FILES) + [path for path in (source, recipe.lm.tokens, recipe.lm.words) if path]
    run.stage("lm", settings, inputs, outputs, work, note)


def perplexities(run: Run) -> list[dict]:
    """The row of each order of the LM over tokens: `{"order", "ngrams", "perplexity", "unseen"}`."""
    return read_json(run.path(TOKENS_LOG))["orders"]
