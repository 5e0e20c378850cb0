"""Whether what a recipe fuses into the search can be had, before hours of training are spent on it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path

from adapt.errors import RecipeError
from adapt.stages.context import Run
from adapt.text.lexicon import Entry, read_lexicon
from adapt.text.normalise import NORMALISERS


def check_fusion(run: Run, weights: Iterable[dict[str, float]], manifests: Iterable[Path]) -> None:
    """Raises RecipeError where a part has a weight and nothing to weigh, DataError for phrases that cannot be written.

    weights: those of each system, by part. manifests: of the utterances, whose own phrases are boosted too.
    """
    from adapt.lm.phrases import tokenise
    from adapt.model.load import load_tokenizer

    recipe, problems = run.recipe, []
    given = [{key for key, value in one.items() if value} for one in weights]
    weighted = set().union(*given)
    if "source" in weighted and not (recipe.lm.source or recipe.data.source_replay):
        problems.append("fusion.source: no text of the source domain; name lm.source or data.source_replay")
    if "boost" in weighted and not recipe.data.lexicon:
        problems.append("fusion.boost: no lexicon to boost; name data.lexicon")
    if any("reward" in keys and not keys & {"lm", "source", "boost"} for keys in given):
        problems.append("fusion.reward: alone it has no effect; give lm, source or boost with it, or leave it out")
    if problems:
        raise RecipeError(*(f"recipe.yaml: {problem}" for problem in problems))
    if "boost" in weighted:
        tokenizer, _ = load_tokenizer(recipe.base)
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        own = (u.phrases or () for path in manifests for u in run.manifests.utterances(path))
        entries = list(read_lexicon(recipe.data.lexicon).entries)
        entries += map(Entry, dict.fromkeys(itertools.chain.from_iterable(own)))
        tokenise(entries, encode, NORMALISERS[recipe.data.normaliser], tokenizer.unk_token_id)
