"""Load the pretrained models that a base recipe starts from, and check that they fit together before any training.

All errors here are RecipeErrors that name a key of the recipe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from adapt.errors import ModelError, RecipeError, first_line
from adapt.model.bases import built_in, find_base
from adapt.recipe.base import BaseRecipe, Encoder
from adapt.text.template import CHAT, CHAT_MARK, parse


def path_or_name(name: str) -> str:
    """The name under which transformers loads a model: the folder of a built-in base, else the name itself."""
    return str(find_base(name)) if name in built_in() else name


def folder_inputs(name: str | None) -> list[Path]:
    """The folder of a model, as the inputs of a stage; [] for None and for a name on the hub."""
    return [Path(path_or_name(name))] if name and Path(path_or_name(name)).is_dir() else []


def takes_decoder_as_is(recipe: BaseRecipe) -> bool:
    """Whether the stage `align` takes the decoder of `llm.start` without training on text."""
    return bool(recipe.llm.start) and not (recipe.llm.lm_steps or recipe.llm.read_steps)


@contextlib.contextmanager
def loading(key: str, name: str | None) -> Iterator[None]:
    """Turn an error in loading a model into a RecipeError. key, name: the key of the recipe and its value."""
    from safetensors import SafetensorError

    try:
        yield
    except ModelError as error:
        raise RecipeError(f"{key}: {error}") from error
    except (OSError, ValueError, SafetensorError) as error:
        reason = first_line(error).rstrip(":. ")
        others = "its name on the hub, or tiny" if key == "encoder.start" else "or its name on the hub"
        raise RecipeError(
            f"{key}: {name!r} cannot be loaded: {reason}; give the folder of a model, {others}"
        ) from error


def load_audio_encoder(settings: Encoder, alphabet: str):
    """The audio encoder that `encoder.start` names, with a CTC head over `alphabet`."""
    import torch
    from transformers import AutoConfig

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.encoders import pretrained, relettered

    source = path_or_name(settings.start)
    if not isinstance(AutoConfig.from_pretrained(source), ComposedConfig):
        options = {"window": settings.window, "tuned_layers": settings.tuned_layers, "first_pass": settings.first_pass}
        return pretrained(source, alphabet, **options)
    return relettered(ComposedForSpeechRecognition.from_pretrained(source, dtype=torch.float32).encoder, alphabet)


def load_decoder(name: str, alphabet: str):
    """The decoder, the tokenizer and the projector of a model; the projector is None for a causal LM.

    name: a folder, or a name on the hub. Letters of `alphabet` that the tokenizer cannot write are added to it. Raises
    the errors of transformers; call it within `loading`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.tokenizer import with_leading_space, with_letters

    if isinstance(AutoConfig.from_pretrained(name), ComposedConfig):
        composed = ComposedForSpeechRecognition.from_pretrained(name, dtype=torch.float32)
        composed.language_model.generation_config = composed.generation_config
        llm, projector = composed.language_model, composed.projector
    else:
        llm, projector = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), None
    tokenizer = with_leading_space(AutoTokenizer.from_pretrained(name))
    return *with_letters(llm, tokenizer, alphabet), projector


def check_starts(recipe: BaseRecipe, alphabet: str) -> None:
    """Raises RecipeError for a model to start from that cannot be loaded or used, or cannot write `alphabet`.

    Only configs and tokenizers are checked, so that a stage can check all models before it trains.
    """
    from transformers import AutoConfig, AutoTokenizer

    if name := recipe.encoder.start:
        with loading("encoder.start", name):
            config = AutoConfig.from_pretrained(path_or_name(name))
        _check_length(recipe, config)
        _check_tuned_layers(recipe, config)
        _check_first_pass(recipe, config)
    chat_template = None
    if name := recipe.llm.start:
        with loading("llm.start", name):
            config = AutoConfig.from_pretrained(path_or_name(name))
            tokenizer = AutoTokenizer.from_pretrained(path_or_name(name))
        _check_causal(name, config)
        _check_spelling(recipe, tokenizer, alphabet)
        _check_letters(recipe, tokenizer, alphabet)
        chat_template = tokenizer.chat_template
    if parse(recipe.align.prompt)[0].kind == CHAT and not chat_template:
        problem = f"{recipe.llm.start!r} has no chat template" if recipe.llm.start else "a new LLM has no chat template"
        raise RecipeError(f"align.prompt: {problem}; write the prompt without {CHAT_MARK}")


def _check_length(recipe: BaseRecipe, encoder) -> None:
    """Raises RecipeError for recordings that are too long for a Whisper encoder with this config."""
    if encoder.model_type == "whisper" and recipe.data.max_seconds > (most := 2 * encoder.max_source_positions / 100):
        problem = f"{recipe.data.max_seconds:g}, but {recipe.encoder.start!r} takes at most {most:g}"
        raise RecipeError(f"data.max_seconds: {problem}; give at most that")


def _check_tuned_layers(recipe: BaseRecipe, encoder) -> None:
    """Raises RecipeError if an encoder with this config has no layers that could be tuned, or too few."""
    tuned, most = recipe.encoder.tuned_layers, encoder.num_hidden_layers if encoder.model_type == "whisper" else 0
    if tuned > most:
        problem = f"{tuned}, but {recipe.encoder.start!r}, a {encoder.model_type!r} model, has {most} that can be tuned"
        raise RecipeError(f"encoder.tuned_layers: {problem}; give at most that")


def _check_first_pass(recipe: BaseRecipe, encoder) -> None:
    """Raises RecipeError if an encoder with this config cannot transcribe in the language of the recipe."""
    from transformers import AutoTokenizer

    from adapt.model.first_pass import languages

    language, start = recipe.encoder.first_pass, recipe.encoder.start
    if language == "none":
        return
    if encoder.model_type != "whisper":
        problem = f"{language}, but {start!r} is a {encoder.model_type!r} model"
        raise RecipeError(f"encoder.first_pass: {problem}; start from a Whisper, or leave first_pass out")
    with loading("encoder.start", start):
        known = languages(AutoTokenizer.from_pretrained(path_or_name(start)))
    if language not in known:
        some = ", ".join(known[:5]) + (" ..." if len(known) > 5 else "")
        raise RecipeError(f"encoder.first_pass: {language!r} is no language of {start!r}; give one of {some}")


def _check_causal(name: str, config) -> None:
    """Raises RecipeError for a model that is no causal LM and no composed model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from adapt.model.composed import ComposedConfig

    if type(config) not in (*MODEL_FOR_CAUSAL_LM_MAPPING, ComposedConfig):
        problem = f"{name!r} is a {config.model_type!r} model"
        raise RecipeError(f"llm.start: {problem}; give a causal LM, or a speech LLM of `adapt base`")


def _check_spelling(recipe: BaseRecipe, tokenizer, alphabet: str) -> None:
    """Raises RecipeError if the recipe needs single-letter tokens and the tokenizer lacks one."""
    from adapt.model.tokenizer import extensible, unwritable
    from adapt.train.pseudo_audio import unspelled

    subject = f"llm.start: the tokenizer of {recipe.llm.start!r}"
    if recipe.llm.read_steps and not tokenizer.is_fast:
        raise RecipeError(f"{subject} does not map tokens to letters; give another LLM, or llm.read_steps: 0")
    missing = unspelled(tokenizer, alphabet)
    if tokenizer.is_fast and extensible(tokenizer):
        missing = "".join(c for c in missing if not unwritable(tokenizer, c))  # the others are added to the tokenizer
    ways_out = ["llm.read_steps: 0"] if recipe.llm.read_steps else []
    ways_out += ["another align.explicit"] if recipe.align.explicit == "letters" else []
    if missing and ways_out:
        raise RecipeError(f"{subject} has no single-letter token for {missing[0]!r}; give {' and '.join(ways_out)}")


def _check_letters(recipe: BaseRecipe, tokenizer, alphabet: str) -> None:
    """Raises RecipeError for letters that the tokenizer cannot write, unless they are added to it and trained."""
    from adapt.model.tokenizer import extensible, unwritable

    if not (missing := unwritable(tokenizer, alphabet)):
        return
    problem = f"llm.start: the tokenizer of {recipe.llm.start!r} cannot write {missing!r}, letters of the transcripts"
    if not extensible(tokenizer):
        raise RecipeError(f"{problem}; give another LLM")
    if takes_decoder_as_is(recipe) and recipe.align.decoder != "full":
        raise RecipeError(f"{problem}; give llm.read_steps or align.decoder: full, so that it learns them")


def check_shapes(recipe: BaseRecipe) -> None:
    """Raises RecipeError for sizes of a new encoder or decoder, and other keys, that do not fit together."""
    encoder, llm, align, problems = recipe.encoder, recipe.llm, recipe.align, []
    if not encoder.start and not encoder.steps:
        problems.append("encoder.steps: 0 without encoder.start; give steps, or an encoder to start from")
    if not encoder.start and encoder.hidden_size % encoder.heads:
        size = encoder.hidden_size
        problems.append(f"encoder.heads: {encoder.heads} does not divide the hidden_size {size}; give a divisor of it")
    if not encoder.start and encoder.subsampling.bit_count() != 1:
        problems.append(f"encoder.subsampling: {encoder.subsampling} is no power of two; write 2, 4 or 8")
    if not llm.start and llm.hidden_size % (2 * llm.heads):
        problem = f"llm.heads: the hidden_size {llm.hidden_size} is no even number for each of {llm.heads} heads"
        problems.append(f"{problem}; give other heads, or another hidden_size")
    if encoder.tuned_layers and encoder.frozen != "all":
        problem = f"{encoder.tuned_layers}, but encoder.frozen is {encoder.frozen}"
        problems.append(f"encoder.tuned_layers: {problem}; write encoder.frozen: all, or leave tuned_layers out")
    problems += _first_pass_problems(recipe)
    needs = {
        "ctc_steps": align.ctc_steps,
        "explicit: ctc": align.explicit == "ctc",
        "slots: units": align.slots == "units",
    }
    if align.units == "none" and any(needs.values()):
        needed = next(key for key, value in needs.items() if value)
        problems.append(f"align.units: none, but align.{needed} needs units; give letters, pieces, tokens or mixed")
    if problems:
        raise RecipeError(*problems)


def _first_pass_problems(recipe: BaseRecipe) -> list[str]:
    """What does not fit to the projector first-pass, or to an encoder that transcribes."""
    encoder, align, problems = recipe.encoder, recipe.align, []
    transcribes = encoder.first_pass != "none"
    if transcribes != (align.projector == "first-pass"):
        problem = f"{encoder.first_pass}, but align.projector is {align.projector}"
        problems.append(f"encoder.first_pass: {problem}; give a language and the projector first-pass, or neither")
    if transcribes and not encoder.start:
        problems.append("encoder.first_pass: without encoder.start; start from a Whisper, or leave first_pass out")
    if transcribes and (encoder.frozen != "all" or encoder.tuned_layers):
        problems.append("encoder.first_pass: needs a frozen encoder; write frozen: all, and no tuned_layers")
    if transcribes and encoder.steps:
        problem = f"{encoder.steps}, but the CTC head of an encoder that transcribes is not used"
        problems.append(f"encoder.steps: {problem}; write steps: 0")
    unused = {"units": "none", "explicit": "none"} if align.projector == "first-pass" else {}
    for key, value in unused.items():
        if (given := getattr(align, key)) != value:
            problems.append(f"align.{key}: {given}, which the projector first-pass does not use; write {key}: {value}")
    return problems
