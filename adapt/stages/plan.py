"""What a recipe asks for: which stages run, which files they write, and what cannot go together."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import DataError
from adapt.model.bases import TRAINED, fingerprint, has_ctc
from adapt.recipe.domain import Recipe
from adapt.text.corpus import Corpus, Utterance, prepare, read_manifest, read_text
from adapt.text.lexicon import Entry, read_lexicon
from adapt.text.normalise import NORMALISERS
from adapt.text.template import read_template

if TYPE_CHECKING:
    from adapt.stages.context import Run

NEEDS_SOFT_PROMPT = ("soft-prompt", "soft-prompt+simulate", "mixed")

SIMULATES = ("simulate", "soft-prompt+simulate", "mixed")

SYSTEMS = ("base", "ctc", "projected", "adapted")  # ctc: the encoder's own path, which adapting leaves as it is

NGRAMS = ("lm", "source")  # weights of what the stage lm makes

SOFT_PROMPT = "prompt/soft_prompt.safetensors"

PROJECTED = "project/prompt.safetensors"

TUNED = "lm/tuned.json"  # what `adapt tune` writes

SETS = {"target": "test", "dev": "dev", "source": "source_test"}  # set -> key of the recipe's data section

SCORED = ("target", "source")


def with_audio(utterances: list[Utterance]) -> list[Utterance]:
    if missing := [u.id for u in utterances if u.audio is None]:
        raise DataError(f"utterance {missing[0]!r}: has no audio; give its 'audio' in the manifest")
    return utterances


def base_of(recipe: Recipe) -> dict[str, str]:
    """What a run records of its base: its name, a hash of it, and how it is loaded where that is not the default."""
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe)}
    ways = {key: getattr(recipe, key) for key in ("dtype", "quantise", "language")}
    known = {"name": recipe.base, "sha": fingerprint(recipe.base)}
    return known | {key: value for key, value in ways.items() if value != defaults[key]}


def reading_settings(recipe: Recipe) -> dict[str, dict]:
    """How transcripts and names are read, for the record of a stage that reads some beside the text."""
    return {"data": {"normaliser": recipe.data.normaliser}}


def sets_of(recipe: Recipe) -> dict[str, Path]:
    """Set name -> manifest of each set that the recipe names."""
    return {name: path for name, key in SETS.items() if (path := getattr(recipe.data, key))}


def scored(recipe: Recipe) -> dict[str, Path]:
    """Those of the sets that are transcribed and scored: the development set is not, it is for `adapt tune`."""
    return {name: path for name, path in sets_of(recipe).items() if name in SCORED}


def corpus_of(recipe: Recipe) -> Corpus:
    """The domain text, normalised, without duplicates and without sentences of the scored sets."""
    normalise = NORMALISERS[recipe.data.normaliser]
    return prepare(read_text(recipe.data.text), normalise, held_out_texts(recipe), recipe.data.dev_lines, recipe.seed)


def held_out_texts(recipe: Recipe) -> list[str]:
    return [u.text for path in sets_of(recipe).values() for u in read_manifest(path, need_audio=False)]


def audio_of(*manifests: Path | None) -> list[Path]:
    """The audio files that the manifests name."""
    return [u.audio for path in manifests if path for u in read_manifest(path) if u.audio]


def pseudo_audio_of(recipe: Recipe) -> str:
    """What stands in the slot, where the recipe leaves it to the base too.

    Raises `DataError` for slots to be simulated of a base without a CTC head.
    """
    chosen, ctc = recipe.decoder.pseudo_audio, has_ctc(recipe.base)
    if chosen in SIMULATES and not ctc:
        told = f"{chosen!r} simulates what a CTC head hears, and {recipe.base} has none"
        raise DataError(f"recipe.yaml: decoder.pseudo_audio: {told}; take soft-prompt")
    return chosen if chosen != "auto" else "simulate" if ctc else "soft-prompt"


def learns_soft_prompt(recipe: Recipe) -> bool:
    """Whether one stands in the slot of the decoder that is tuned, or of the one that is asked for its internal LM."""
    return pseudo_audio_of(recipe) in NEEDS_SOFT_PROMPT or recipe.fusion.ilm_slot == "soft-prompt"


def template_of(recipe: Recipe) -> str:
    """The template of the prompt that is learned."""
    return read_template(recipe.project.template, recipe.folder)


def trained(recipe: Recipe) -> list[str]:
    """The parts of the base that `project` trains. Raises `DataError` for what makes no sense together."""
    parts = [part for part in ("encoder", "projector", "llm") if getattr(recipe.project, part) != "frozen"]
    if "encoder" in parts and "projector" not in parts:
        told = "its frozen projector maps what the encoder says now, and would be wrong; train project.projector too"
        raise DataError(f"recipe.yaml: project.encoder: {told}")
    if parts and recipe.quantise != "none":
        told = f"cannot be changed and written again in {recipe.quantise}; leave out quantise, or keep it frozen"
        raise DataError(f"recipe.yaml: project.{parts[0]}: {told}")
    return parts


def projects(recipe: Recipe) -> bool:
    """Is there anything to learn from paired audio?"""
    return bool(recipe.project.method != "none" or trained(recipe))


def projected_files(run: Run) -> list[Path]:
    """What `project` makes, if the recipe has it."""
    return [run.path(TRAINED if trained(run.recipe) else PROJECTED)] if projects(run.recipe) else []


def weights_of(recipe: Recipe) -> dict[str, float]:
    """The weights of the recipe's fusion section."""
    return {key: value for key, value in dataclasses.asdict(recipe.fusion).items() if key != "ilm_slot"}


def check_fusion(run: Run, weights: Iterable[dict[str, float]], manifests: Iterable[Path]) -> None:
    """Raises DataError where what is weighed cannot come to be, or not on the utterances of `manifests`.

    Now, not after the hours of training.
    """
    from adapt.lm.phrases import tokenise
    from adapt.model.load import load_tokenizer

    recipe, problems = run.recipe, []
    given = [{key for key, value in one.items() if value} for one in weights]
    named = set().union(*given)
    if "source" in named and not (recipe.lm.source or recipe.data.source_replay):
        problems.append("recipe.yaml: fusion.source: no text of the source; name lm.source or data.source_replay")
    if "boost" in named and not recipe.data.lexicon:
        problems.append("recipe.yaml: fusion.boost: no lexicon to boost; name data.lexicon")
    if any("reward" in keys and not keys & {*NGRAMS, "boost"} for keys in given):
        problems.append(
            "recipe.yaml: fusion.reward: of tokens alone; give lm, source or boost with it, or leave it out"
        )
    if problems:
        raise DataError(*problems)
    if "boost" in named:
        tokenizer, _ = load_tokenizer(recipe.base)
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        own = (u.phrases or () for path in manifests for u in read_manifest(path, need_audio=False))
        entries = list(read_lexicon(recipe.data.lexicon).entries)
        entries += map(Entry, dict.fromkeys(itertools.chain.from_iterable(own)))
        tokenise(entries, encode, NORMALISERS[recipe.data.normaliser], tokenizer.unk_token_id)
