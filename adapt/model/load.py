"""A built-in name, a folder or a model on the hub -> the view of a speech LLM."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import logging

from adapt.errors import ModelError, first_line
from adapt.model import learned_prompt
from adapt.model.bases import find_base
from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
from adapt.model.families import MAX_SECONDS, around, audio_token_id, family_of
from adapt.model.speech_llm import SpeechLLM
from adapt.model.support import NEEDS, SUPPORTED, refusal

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_speech_llm(
    name: str, device: str = "auto", *, dtype: str = "auto", quantise: int | None = None, language: str = "en"
) -> SpeechLLM:
    """Load a speech LLM.

    name: a built-in one, a folder, or one on the hub as `owner/name` or `owner/name@revision`. device: `cpu`, `cuda`,
    `cuda:1`, `mps`; `spread` lays it over all the devices there are; `auto` is CUDA where it is there, else CPU. dtype:
    `fp32`, `bf16` or `fp16`; `auto` is fp32 for models of our own and on a CPU, else what the weights were saved in.
    quantise: 8 or 4 bits for the linear layers, by bitsandbytes, on CUDA. language: ISO 639-1, for families whose
    prompt says it.

    Raises `ModelError` when there is no such model, when it is none that can be adapted, and when weights are missing.
    """
    path = find_base(name)
    config = read_config(path, name)
    logging.disable_progress_bar()  # weights of a second are not worth a bar
    device = device_of(device)
    if isinstance(config, ComposedConfig):
        if quantise or device == "spread":
            told = f"quantise: {quantise} bits" if quantise else "device: spread"
            raise ModelError(f"{told}: not for models of our own, which are small; leave it out")
        model = _weights(ComposedForSpeechRecognition, path, strict=True, dtype=DTYPES.get(dtype, torch.float32))
        return _with_prompt(view(name, model.to(device).eval(), AutoTokenizer.from_pretrained(path)), path)
    processor = _processor(path, config)
    more: dict[str, object] = {"dtype": DTYPES.get(dtype, torch.float32 if device in ("cpu", "mps") else "auto")}
    if device == "spread":
        more["device_map"] = "auto"
    if quantise:
        more |= _quantised(quantise, device)
    model = _weights(getattr(transformers, SUPPORTED[config.model_type]), path, **more)
    model = model if "device_map" in more else model.to(device)
    model = getattr(model, "thinker", model)  # of Qwen's omni models, the part that writes
    _merge_own_lora(model)
    return _with_prompt(foreign_view(name, model.eval(), processor, language), path)


def _with_prompt(speech_llm: SpeechLLM, path: Path) -> SpeechLLM:
    """Behind the learned prompt that lies beside its weights, if one does."""
    if (path / learned_prompt.FILE).exists():
        speech_llm.learned = speech_llm.prompts[None] = learned_prompt.load_learned_prompt(
            path / learned_prompt.FILE, speech_llm
        )
    return speech_llm


def device_of(name: str) -> str:
    """The device that a name stands for; `auto` is that of the process. Raises `ModelError` for what is not there."""
    if name == "auto":
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if name == "spread":
        return name
    kind, _, number = name.partition(":")
    there = {
        "cpu": not number,
        "cuda": torch.cuda.is_available()
        and (number or "0").isdigit()
        and int(number or 0) < torch.cuda.device_count(),
        "mps": not number and torch.backends.mps.is_available(),
    }
    if kind not in there:
        raise ModelError(f"device: unknown {name!r}; write auto, cpu, cuda, cuda:1, mps or spread")
    if not there[kind]:
        raise ModelError(f"device: {name!r} is not there; write auto, or leave it out")
    return name


def read_config(path: Path, name: str) -> PreTrainedConfig:
    """The config of a speech LLM. Raises `ModelError` for any other kind of model."""
    try:
        config = AutoConfig.from_pretrained(path)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"base: {name!r}: its config.json says too little: {first_line(error)}") from None
    kind = config.model_type
    if kind == ComposedConfig.model_type or kind in SUPPORTED:
        return config
    if why := refusal(kind):
        raise ModelError(f"base: {name!r} is a {kind!r} model: {why}; see `adapt ls models`")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TEXT

    if kind in TEXT:
        way_out = "give a speech LLM, or make one of it with `adapt base` and llm.start"
        raise ModelError(f"base: {name!r} is a text-only LLM ({kind!r}) and hears nothing; {way_out}")
    raise ModelError(f"base: {name!r} is a {kind!r} model, which hears nothing; see `adapt ls models`")


def _weights(cls: type[PreTrainedModel], path: Path, strict: bool = False, **more) -> PreTrainedModel:
    try:
        model, report = cls.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **more)
    except OSError as error:
        raise ModelError(
            f"{path}: no weights there: {first_line(error)}; save the model with save_pretrained"
        ) from None
    except ImportError as error:
        raise ModelError(f"{path}: {cls.__name__} cannot be built: {first_line(error)}; install it") from None
    amiss = [*report["missing_keys"], *report["mismatched_keys"], *(report["unexpected_keys"] if strict else ())]
    if amiss:
        raise ModelError(f"{path}: {len(amiss)} weights do not fit, first {amiss[0]!r}; save the model again")
    return model


def _quantised(bits: int, device: str) -> dict:
    if not torch.cuda.is_available() or device in ("cpu", "mps"):
        raise ModelError(f"quantise: {bits} bits need CUDA, and this is {device}; leave it out")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError("quantise: needs bitsandbytes; pip install bitsandbytes") from None
    config = transformers.BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    return {"quantization_config": config, "device_map": "auto" if device == "spread" else device}


def _processor(path: Path, config: PreTrainedConfig) -> ProcessorMixin:
    package = NEEDS.get(config.model_type)
    if package and not find_spec(package):
        raise ModelError(f"{path}: the processor of {config.model_type} needs {package}; pip install {package}")
    try:
        processor = AutoProcessor.from_pretrained(path)
    except (ValueError, OSError, ImportError, TypeError) as error:
        told = f"{path}: its processor cannot be loaded: {first_line(error)}"
        raise ModelError(f"{told}; put it beside the model with processor.save_pretrained") from None
    if not isinstance(processor, ProcessorMixin):
        told = f"a {type(processor).__name__} alone, no processor of audio and text"
        raise ModelError(f"{path}: holds {told}; put it there with processor.save_pretrained")
    return processor


def load_tokenizer(name: str) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a speech LLM, and how many outputs its decoder has."""
    path = find_base(name)
    config = read_config(path, name)
    if isinstance(config, ComposedConfig):
        tokenizer = AutoTokenizer.from_pretrained(path)
    else:
        tokenizer = _processor(path, config).tokenizer
    return tokenizer, getattr(config, "thinker_config", config).get_text_config(decoder=True).vocab_size


def view(name: str, model: ComposedForSpeechRecognition, tokenizer: PreTrainedTokenizerBase) -> SpeechLLM:
    """The view of a model of our own that is in memory already."""
    ends = [tokenizer.eos_token_id]
    speech_llm = SpeechLLM(name, model, tokenizer, [], [], ends, model.config.max_seconds)
    return learned_prompt.with_template(speech_llm, model.config.prompt)


def foreign_view(name: str, model: PreTrainedModel, processor: ProcessorMixin, language: str = "en") -> SpeechLLM:
    """The view of any other model with its processor. Raises `ModelError` where no slot is found in its prompt."""
    family, tokenizer = family_of(model.config), processor.tokenizer
    try:
        before, after = around(processor, family, audio_token_id(model.config), language, name)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        told = f"{name}: its processor writes no prompt with a slot for audio: {first_line(error)}"
        raise ModelError(f"{told}; take the processor that was saved with it") from error
    return SpeechLLM(
        name,
        model,
        tokenizer,
        before,
        after,
        _ends(model, tokenizer),
        MAX_SECONDS,
        processor,
        language,
        _lost_scaling(model),
        own=(before, after),
    )


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a transcript; the one that the tokenizer calls so comes first."""
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    own = tokenizer.eos_token_id
    return list(dict.fromkeys(([own] if own in ends or not ends else []) + ends))


@torch.no_grad()
def _lost_scaling(model: PreTrainedModel) -> float:
    """What the logits have to be divided by: that by which the decoder's config has them scaled, and no one does.

    Granite's LLM divides its logits; transformers' Granite Speech, which holds the same LLM, forgets to.
    """
    scaling = getattr(model.config.get_text_config(decoder=True), "logits_scaling", 1.0)
    if scaling == 1.0:
        return 1.0
    rows = model.get_input_embeddings()(torch.arange(8, device=model.device))[None]
    states = model.get_decoder()(inputs_embeds=rows).last_hidden_state
    plain, given = model.get_output_embeddings()(states).float(), model(inputs_embeds=rows).logits.float()
    return scaling if (given - plain).norm() < (given - plain / scaling).norm() else 1.0


def _merge_own_lora(model: PreTrainedModel) -> None:
    """A LoRA that comes with a base is part of it: what is learned goes on top, and `generate` does not switch it."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    if layers:
        model._hf_peft_config_loaded = False
        del model.peft_config
        model._weight_conversions = None  # of the names with the adapter, which saving would write again
