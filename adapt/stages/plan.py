"""The plan of a run: which stages its recipe needs, and the files that they write. Reads no model weights."""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from adapt.errors import DataError, RecipeError
from adapt.model.bases import described, fingerprint, has_ctc, transcribes
from adapt.recipe.domain import DomainData, Recipe
from adapt.stages.manifests import Manifests
from adapt.text.corpus import Corpus, prepare
from adapt.text.hub import is_hub_name, pinned
from adapt.text.normalise import NORMALISERS
from adapt.text.sentences import sample, sentences
from adapt.text.template import read_template
from adapt.text.writable import Written, writable

# Kinds of `decoder.pseudo_audio`: those that need a soft prompt, and those with simulated slots.
NEEDS_SOFT_PROMPT = ("soft-prompt", "soft-prompt+simulate", "mixed")
SIMULATES = ("simulate", "soft-prompt+simulate", "mixed")

BOOSTS, PROMPTS = ("boost", "both"), ("prompt", "both")  # values of `transcribe.names`

# The way out of text that the base cannot write.
WRITE = "they are left out: write them as they are spoken, or give `data.unwritable: fold` for text without accents"

SETS = {"target": "test", "dev": "dev", "source": "source_test"}  # set -> key of the recipe's data section
SCORED = ("target", "source")  # only `adapt tune` and `adapt prompts` use the development set

# Files of a run folder that more than one stage reads or writes.
TRAIN, COPIES, DEV, LEAKS, TERMS = (f"text/{name}.txt" for name in ("train", "copies", "dev", "leaks", "terms"))
SOFT_PROMPT = "prompt/soft_prompt.safetensors"
GENERATOR = "generator/generator.safetensors"  # if slots are generated
LEARNED_PROMPT = "project/prompt.safetensors"  # if `project` learns a prompt alone
TRAINED_BASE = "project/model"  # if `project` trains parts of the base; a learned prompt is in it
ADAPTER = "adapter"
TOKENS_LM, SOURCE_LM, WORDS_LM = (f"lm/{name}.arpa" for name in ("tokens", "source", "words"))
TUNED_WEIGHTS = "lm/tuned.json"  # written by `adapt tune`


def sets(recipe: Recipe) -> dict[str, Path]:
    """Name -> manifest of each set that the recipe has: `target`, `dev`, `source`."""
    return {name: path for name, key in SETS.items() if (path := getattr(recipe.data, key))}


def scored_sets(recipe: Recipe) -> dict[str, Path]:
    """The `sets` that are transcribed and scored."""
    return {name: path for name, path in sets(recipe).items() if name in SCORED}


def held_out_texts(recipe: Recipe, manifests: Manifests) -> list[str]:
    """The transcripts of all sets, which the domain text must not contain."""
    return [u.text for path in sets(recipe).values() for u in manifests.utterances(path)]


def corpus(recipe: Recipe, manifests: Manifests) -> Corpus:
    """The domain text, normalised, without duplicates, transcripts of the sets, and what the base cannot write.

    Of a text of more than `data.text_lines` lines, a sample.
    """
    data, normalise = recipe.data, NORMALISERS[recipe.data.normaliser]
    lines, total = sample(sentences(data.text, data.text_column), data.text_lines, recipe.seed)
    sampled = f"{len(lines):,} of {total:,} lines, drawn at random (data.text_lines)" if total > len(lines) else ""
    text = written(recipe, list(map(normalise, lines)))
    if not text.kept:
        raise DataError(f"{recipe.data.text}: {text.remark()}; {WRITE}")
    held_out = list(map(normalise, held_out_texts(recipe, manifests)))
    held_out += written(recipe, held_out).kept  # with the same accents as the text
    prepared = prepare(text.kept, str, held_out, recipe.data.dev_lines, recipe.seed)
    return dataclasses.replace(prepared, remark=text.remark(), sampled=sampled)


def written(recipe: Recipe, texts: Sequence[str]) -> Written:
    """Normalised texts as the base can write them; unchanged for a base whose folder has no tokenizer.json."""
    file = described(recipe.base) / "tokenizer.json"
    if not file.exists():
        return Written(tuple(texts))
    encode, special = _tokenizer(file)
    return writable(texts, encode, special, recipe.data.unwritable)


@functools.cache
def _tokenizer(file: Path) -> tuple[Callable[[str], list[int]], frozenset[int]]:
    """What encodes a text, and the special tokens, from a tokenizer.json. transformers would import torch."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True  # "</s>" is text here
    contents = json.loads(tokenizer.to_str())
    special = {token["id"] for token in contents["added_tokens"] if token["special"]}
    model = contents["model"]
    unknown = model.get("unk_id", tokenizer.token_to_id(model.get("unk_token") or ""))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids, frozenset({*special, unknown} - {None})


def pseudo_audio(recipe: Recipe) -> str:
    """The kind of pseudo audio of the recipe.

    `auto` becomes `simulate` for a base whose encoder has a CTC head or transcribes, else `soft-prompt`. Raises
    RecipeError if slots are to be simulated for another base, if they are to be generated for one that transcribes or
    without `data.source_replay`, or if sentences are to be spoken and no command is there.
    """
    chosen, simulates = recipe.decoder.pseudo_audio, has_ctc(recipe.base) or transcribes(recipe.base)
    if chosen in SIMULATES and not simulates:
        problem = f"{chosen!r} needs a base with a CTC head, and {recipe.base} has none; write soft-prompt"
        raise RecipeError(f"recipe.yaml: decoder.pseudo_audio: {problem}")
    if chosen == "generate" and transcribes(recipe.base):
        problem = f"{chosen!r} makes audio embeddings, but the slot of {recipe.base} holds a transcript; write simulate"
        raise RecipeError(f"recipe.yaml: decoder.pseudo_audio: {problem}")
    if chosen == "generate" and not recipe.data.source_replay:
        problem = f"{chosen!r} learns from data.source_replay, which is missing; name a manifest, or write soft-prompt"
        raise RecipeError(f"recipe.yaml: decoder.pseudo_audio: {problem}")
    if chosen == "speech" and (problem := _unusable(recipe.decoder.speak or "")):
        way_out = "{out} stands for the wav file that it writes, as in `piper -m voice.onnx -f {out}`"
        raise RecipeError(f"recipe.yaml: decoder.speak: {problem}; {way_out}")
    if chosen == "auto":
        return "simulate" if simulates else "soft-prompt"
    return chosen


def _unusable(command: str) -> str | None:
    """Why a command cannot speak a sentence; None if it may."""
    if "{out}" not in command:
        return "names no command of a speech synthesiser with the word {out} in it"
    try:
        shlex.split(command)
    except ValueError as error:
        return f"cannot be divided into words: {str(error).lower()}"
    return None


def finds_terms(recipe: Recipe) -> bool:
    """Whether the terms of the text take the place of a lexicon, in prompts and boosting."""
    return recipe.transcribe.names in PROMPTS and recipe.data.lexicon is None


def in_prompt(recipe: Recipe) -> dict[str, int]:
    """How many `names` and `sentences` the prompt of an utterance holds at most; without the key if there are none.

    Only an encoder that transcribes reads sentences.
    """
    names = recipe.transcribe.names_in_prompt if recipe.transcribe.names in PROMPTS else 0
    sentences = recipe.transcribe.sentences if transcribes(recipe.base) else 0
    return {key: count for key, count in (("names", names), ("sentences", sentences)) if count}


def lists_names(recipe: Recipe) -> bool:
    """Whether prompts list names while the decoder is tuned. Raises RecipeError where they cannot."""
    if not recipe.decoder.names:
        return False
    if not recipe.data.lexicon:
        raise RecipeError("recipe.yaml: decoder.names: there is no lexicon; name one in data.lexicon, or leave it out")
    if transcribes(recipe.base):
        problem = f"the encoder of {recipe.base} reads the names, not its decoder; leave it out"
        raise RecipeError(f"recipe.yaml: decoder.names: {problem}")
    return True


def learns_soft_prompt(recipe: Recipe) -> bool:
    """Whether stage 1 runs: for the pseudo audio of stage 2, or for the slot of the internal LM."""
    return pseudo_audio(recipe) in NEEDS_SOFT_PROMPT or recipe.fusion.ilm_slot == "soft-prompt"


def prompt_template(recipe: Recipe) -> str:
    """The template of the prompt that `project` learns."""
    return read_template(recipe.project.template, recipe.folder)


def trained_parts(recipe: Recipe) -> list[str]:
    """The parts of the base that `project` trains: encoder, projector, llm.

    Raises RecipeError for settings that exclude each other.
    """
    parts = [part for part in ("encoder", "projector", "llm") if getattr(recipe.project, part) != "frozen"]
    if "encoder" in parts and "projector" not in parts:
        problem = "a frozen projector would map the output of an encoder that has changed; train project.projector too"
        raise RecipeError(f"recipe.yaml: project.encoder: {problem}")
    if parts and recipe.quantise != "none":
        problem = f"weights in {recipe.quantise} cannot be trained and saved; leave out quantise, or keep them frozen"
        raise RecipeError(f"recipe.yaml: project.{parts[0]}: {problem}")
    return parts


def learns_from_pairs(recipe: Recipe) -> bool:
    """Whether the stage `project` runs."""
    return bool(recipe.project.method != "none" or trained_parts(recipe))


def projected(recipe: Recipe) -> str | None:
    """The output of `project` in the run folder: TRAINED_BASE or LEARNED_PROMPT; None if the stage does not run."""
    if not learns_from_pairs(recipe):
        return None
    return TRAINED_BASE if trained_parts(recipe) else LEARNED_PROMPT


def base_record(recipe: Recipe) -> dict[str, str]:
    """The record of the base in run.json: its name, its hash, and the settings of loading that are not the default."""
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe)}
    loading = {key: getattr(recipe, key) for key in ("dtype", "quantise", "language")}
    identity = {"name": recipe.base, "sha": fingerprint(recipe.base)}
    return identity | {key: value for key, value in loading.items() if value != defaults[key]}


def text_record(recipe: Recipe) -> dict[str, str | int]:
    """The record of what a file's hash does not say about the domain text: keys that are not at their default, and the
    commit of a data set of the hub. Raises DataError for a data set that the hub does not have.
    """
    data, defaults = recipe.data, {f.name: f.default for f in dataclasses.fields(DomainData)}
    record = {key: value for key in ("text_column", "text_lines") if (value := getattr(data, key)) != defaults[key]}
    return record | ({"text": pinned(data.text)} if is_hub_name(str(data.text)) else {})


def normaliser_record(recipe: Recipe) -> dict[str, dict]:
    """The record of a stage that normalises text itself."""
    return {"data": {"normaliser": recipe.data.normaliser}}


def transcripts_record(recipe: Recipe) -> dict[str, dict]:
    """The record of a stage that trains on transcripts (`Run.transcribed`)."""
    return {"data": {"normaliser": recipe.data.normaliser, "unwritable": recipe.data.unwritable}}


def fusion_weights(recipe: Recipe) -> dict[str, float]:
    """The weights of the recipe's fusion section by part."""
    return {key: value for key, value in dataclasses.asdict(recipe.fusion).items() if key != "ilm_slot"}
