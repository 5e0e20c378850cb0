"""Check before the training that every part of fusion with a weight has its input."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from adapt.errors import DataError, RecipeError
from adapt.model.bases import config_of, described
from adapt.model.families import FAMILIES
from adapt.recipe.domain import Recipe
from adapt.stages.context import Run
from adapt.stages.plan import PROMPTS, finds_terms
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS


def fusion_problems(recipe: Recipe, weights: Iterable[dict[str, float]]) -> list[str]:
    """What is wrong with the weights of the systems, by part: a part without its input. One problem an entry."""
    parts_of_systems = [{key for key, weight in of_system.items() if weight} for of_system in weights]
    parts, problems = set().union(*parts_of_systems), []
    if "source" in parts and not (recipe.lm.source or recipe.data.source_replay):
        problems.append("fusion.source: no text of the source domain; name lm.source or data.source_replay")
    if "boost" in parts and not recipe.data.lexicon and not finds_terms(recipe):
        way_out = "name data.lexicon, or set transcribe.names to both, which finds names in the text"
        problems.append(f"fusion.boost: no lexicon to boost; {way_out}")
    if recipe.transcribe.names in PROMPTS and not _has_room_for_names(recipe):
        problem = f"the prompt of {recipe.base} has no room for names"
        problems.append(f"transcribe.names: {problem}; boost them instead (transcribe.names: boost)")
    if any("reward" in keys and not keys & {"lm", "source", "boost"} for keys in parts_of_systems):
        problems.append("fusion.reward: alone it has no effect; give fusion.lm, source or boost too, or leave it out")
    return problems


def _has_room_for_names(recipe: Recipe) -> bool:
    """Whether the prompt of the base can list names; a learned prompt always can."""
    family = FAMILIES.get(config_of(described(recipe.base)).get("model_type"))
    return recipe.project.method != "none" or family is None or family.names is not None


def check_fusion(run: Run, weights: Iterable[dict[str, float]]) -> None:
    """Raises RecipeError for a part with a weight but no input, and DataError for a lexicon that tokens cannot write.

    weights: the weights of each system by part.
    """
    from adapt.lm.phrases import NOT_WRITABLE, tokenise
    from adapt.model.load import load_tokenizer

    recipe, weights = run.recipe, list(weights)
    if problems := fusion_problems(recipe, weights):
        raise RecipeError(*(f"recipe.yaml: {problem}" for problem in problems))
    if recipe.data.lexicon and any(of_system.get("boost") for of_system in weights):
        tokenizer, _ = load_tokenizer(recipe.base)
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        entries = read_lexicon(recipe.data.lexicon).entries
        if not tokenise(entries, encode, NORMALISERS[recipe.data.normaliser], tokenizer.unk_token_id):
            raise DataError(f"{recipe.data.lexicon}: no entry {NOT_WRITABLE}")
