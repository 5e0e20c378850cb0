"""What a base begins with: pretrained encoders and decoders, and whether they fit together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from adapt.errors import ModelError, RecipeError
from adapt.model.bases import built_in, find_base
from adapt.recipe.base import BaseRecipe
from adapt.text.template import CHAT, CHAT_MARK, parse


def place_of(name: str) -> str:
    """What transformers loads: the folder of a built-in base, else the name as it is."""
    return str(find_base(name)) if name in built_in() else name


def folder_inputs(name: str | None) -> list[Path]:
    return [Path(place_of(name))] if name and Path(place_of(name)).is_dir() else []


@contextlib.contextmanager
def loading(key: str, name: str | None) -> Iterator[None]:
    """Turn the errors of loading the model that `key` of the recipe names into a `ModelError` that names the key."""
    from safetensors import SafetensorError

    try:
        yield
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(":. ")
        ways = "its name on the hub, or tiny" if key == "encoder.start" else "or its name on the hub"
        raise ModelError(f"{key}: {name!r} cannot be loaded: {reason}; give the folder of a model, {ways}") from error


def load_audio_encoder(name: str, alphabet: str):
    """The audio encoder that `encoder.start` names, with a CTC head over `alphabet`."""
    import torch
    from transformers import AutoConfig

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.encoders import pretrained, relettered

    place = place_of(name)
    if not isinstance(AutoConfig.from_pretrained(place), ComposedConfig):
        return pretrained(place, alphabet)
    return relettered(ComposedForSpeechRecognition.from_pretrained(place, dtype=torch.float32).encoder, alphabet)


def load_decoder(place: str, alphabet: str):
    """The causal LM at `place` and its tokenizer; of a speech LLM made here its decoder, and its projector, else None.

    Letters of `alphabet` that it cannot write are given to it.

    Raises what transformers does (`_loading`).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.tokenizer import with_letters

    if isinstance(AutoConfig.from_pretrained(place), ComposedConfig):
        made = ComposedForSpeechRecognition.from_pretrained(place, dtype=torch.float32)
        made.language_model.generation_config = made.generation_config
        llm, projector = made.language_model, made.projector
    else:
        llm, projector = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32), None
    return *with_letters(llm, AutoTokenizer.from_pretrained(place), alphabet), projector


def check_starts(recipe: BaseRecipe, alphabet: str) -> None:
    """Raises `ModelError` when what the recipe begins with cannot be loaded, or not write the letters of `alphabet`.

    Now, not after the encoder's hours.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from adapt.model.composed import ComposedConfig
    from adapt.model.tokenizer import extensible, unwritable
    from adapt.train.pseudo_audio import unspelled

    wants_chat, chats = parse(recipe.align.prompt)[0].kind == CHAT, None
    for key, name in (("encoder.start", recipe.encoder.start), ("llm.start", recipe.llm.start)):
        if not name:
            continue
        with loading(key, name):
            config = AutoConfig.from_pretrained(place_of(name))
            tokenizer = AutoTokenizer.from_pretrained(place_of(name)) if key == "llm.start" else None
        if tokenizer is None:
            _check_length(recipe, config)
            continue
        chats = tokenizer.chat_template
        if type(config) not in (*MODEL_FOR_CAUSAL_LM_MAPPING, ComposedConfig):
            told = f"{key}: {name!r} is a {config.model_type!r} model"
            raise ModelError(f"{told}; give a causal LM, or a speech LLM made here")
        if recipe.llm.read_steps and not tokenizer.is_fast:
            told = f"{key}: the tokenizer of {name!r} does not tell which letters a token is of"
            raise ModelError(f"{told}; give another LLM, or llm.read_steps: 0")
        wanting = unspelled(tokenizer, alphabet)
        if tokenizer.is_fast and extensible(tokenizer):
            wanting = "".join(c for c in wanting if not unwritable(tokenizer, c))  # the others will be given to it
        ways = ["llm.read_steps: 0"] if recipe.llm.read_steps else []
        ways += ["another align.explicit"] if recipe.align.explicit == "letters" else []
        if wanting and ways:
            told = f"{key}: the tokenizer of {name!r} has no piece for {wanting[0]!r} alone, to be spelled with"
            raise ModelError(f"{told}; give {' and '.join(ways)}")
        if missing := unwritable(tokenizer, alphabet):
            told = f"{key}: the tokenizer of {name!r} cannot write {missing!r}, letters of the transcripts"
            if not extensible(tokenizer):
                raise ModelError(f"{told}; give another LLM")
            if takes_decoder_as_is(recipe) and recipe.align.decoder != "full":
                raise ModelError(f"{told}; give llm.read_steps or align.decoder: full, so that it learns them")
    if wants_chat and not chats:
        told = f"{recipe.llm.start!r} has no chat template" if recipe.llm.start else "a new LLM has no chat template"
        raise ModelError(f"align.prompt: {told}; write the prompt without {CHAT_MARK}")


def _check_length(recipe: BaseRecipe, encoder) -> None:
    """Raises `ModelError` for recordings longer than an encoder of this config hears: Whisper's has 1,500 places."""
    if encoder.model_type == "whisper" and recipe.data.max_seconds > (most := 2 * encoder.max_source_positions / 100):
        told = f"data.max_seconds: {recipe.data.max_seconds:g}, of which {recipe.encoder.start!r} hears {most:g}"
        raise ModelError(f"{told}; give at most that")


def check_shapes(recipe: BaseRecipe) -> None:
    """Raises `RecipeError` for sizes of a new encoder or decoder that do not go together."""
    encoder, llm, problems = recipe.encoder, recipe.llm, []
    if not encoder.start and not encoder.steps:
        problems.append("encoder.steps: 0 without encoder.start; give steps, or an encoder to begin with")
    if not encoder.start and encoder.hidden_size % encoder.heads:
        problems.append(f"encoder.heads: {encoder.heads} do not divide {encoder.hidden_size}, the hidden_size")
    if not encoder.start and encoder.subsampling.bit_count() != 1:
        problems.append(f"encoder.subsampling: {encoder.subsampling} is no power of two; write 2, 4 or 8")
    if not llm.start and llm.hidden_size % (2 * llm.heads):
        problems.append(f"llm.heads: {llm.hidden_size}, the hidden_size, is no even number for each of {llm.heads}")
    if problems:
        raise RecipeError(*problems)


def takes_decoder_as_is(recipe: BaseRecipe) -> bool:
    """Whether the decoder is taken as it is, from where it lies."""
    return bool(recipe.llm.start) and not (recipe.llm.lm_steps or recipe.llm.read_steps)
