"""Load a speech LLM: a built-in base, a folder or a model on the hub -> `SpeechLLM`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
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
from adapt.model.bases import find_base, parameters, tensors
from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
from adapt.model.families import FAMILIES, family_of
from adapt.model.shard import check_shard, shard
from adapt.model.slot import audio_token_id, ids_around_slot
from adapt.model.speech_llm import SpeechLLM
from adapt.model.support import refusal
from adapt.model.tokenizer import word_ids

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGE = 100_000_000  # parameters from which bf16 makes a model faster on a CPU that computes in it
MAX_SECONDS = 30.0  # longest recording for models of transformers: encoders of Whisper silently drop the rest


def load_speech_llm(
    name: str, device: str = "auto", *, dtype: str = "auto", quantise: int | None = None, language: str = "en"
) -> SpeechLLM:
    """Load a speech LLM.

    name: a built-in base, a folder, or `owner/name` or `owner/name@revision` on the hub. device: `cpu`, `cuda`,
    `cuda:1`, `mps`; `spread` distributes the model over all devices; `shard` divides its decoder among the processes of
    a launch (`adapt.model.shard`); `auto` is CUDA where available, else CPU. dtype: `fp32`, `bf16` or `fp16`; `auto`
    is, on a CPU that computes in bf16, bf16 for a model of 100 million parameters or more that was saved in half
    precision; otherwise fp32 on a CPU, on MPS and for models of `adapt base`, else the data type of the saved weights.
    quantise: 8 or 4 bits for the linear layers, by bitsandbytes, on CUDA; None: no quantisation. language: ISO 639-1,
    for families whose prompt names it.

    Raises `ModelError` if there is no such model, if it cannot be a base, and if weights are missing.
    """
    path = find_base(name)
    config = read_config(path, name)
    logging.disable_progress_bar()
    shards, device = device == "shard", device_of(device)
    if shards:
        check_shard(quantise)
    if isinstance(config, ComposedConfig):
        if quantise or device == "spread":
            argument = f"quantise: {quantise} bits" if quantise else "device: 'spread'"
            raise ModelError(f"{argument}: not for models built by `adapt base`, which are small; leave it out")
        precision = DTYPES.get(dtype) or _half_on_cpu(path, device) or torch.float32
        model = _weights(ComposedForSpeechRecognition, path, strict=True, dtype=precision)
        model = model if shards else model.to(device)
        speech_llm = view(name, model.eval(), AutoTokenizer.from_pretrained(path))
        return _with_prompt(shard(speech_llm, device) if shards else speech_llm, path)
    processor = _processor(path, config)
    saved = torch.float32 if device in ("cpu", "mps") else "auto"
    arguments: dict[str, object] = {"dtype": DTYPES.get(dtype) or _half_on_cpu(path, device) or saved}
    if device == "spread":
        arguments["device_map"] = "auto"
    if quantise:
        arguments |= _quantised(quantise, device)
    model = _weights(getattr(transformers, FAMILIES[config.model_type].cls), path, **arguments)
    model = model if shards or "device_map" in arguments else model.to(device)
    model = getattr(model, "thinker", model)  # the part of Qwen's omni models that generates text
    merge_own_lora(model)
    speech_llm = view_with_processor(name, model.eval(), processor, language)
    return _with_prompt(shard(speech_llm, device) if shards else speech_llm, path)


def _half_on_cpu(path: Path, device: str) -> torch.dtype | None:
    """bf16 for a large model saved in half precision, if `device` is a CPU that computes in bf16, else None."""
    if device != "cpu" or not computes_in_bf16(torch.device(device)):
        return None
    try:
        in_half = not any(kind == "F32" for kind, _ in tensors(path).values())
        return torch.bfloat16 if in_half and parameters(path) >= LARGE else None
    except ModelError:  # no safetensors, or broken ones, of which loading itself says what is wrong
        return None


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the hardware of a CPU or CUDA device computes in bf16."""
    cuda = device.type == "cuda"
    return torch.cuda.is_bf16_supported(including_emulation=False) if cuda else torch.cpu._is_avx512_bf16_supported()


def _with_prompt(speech_llm: SpeechLLM, path: Path) -> SpeechLLM:
    """The model with the learned prompt in its folder, if there is one (in place)."""
    if (path / learned_prompt.FILE).exists():
        speech_llm.learned = speech_llm.prompts[None] = learned_prompt.load_learned_prompt(
            path / learned_prompt.FILE, speech_llm
        )
    return speech_llm


def device_of(name: str) -> str:
    """The device of a name; `auto` and `shard` are that of the process.

    Raises `ModelError` for unknown and unavailable devices.
    """
    if name in ("auto", "shard"):
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if name == "spread":
        return name
    kind, _, number = name.partition(":")
    available = {
        "cpu": not number,
        "cuda": torch.cuda.is_available()
        and (number or "0").isdigit()
        and int(number or 0) < torch.cuda.device_count(),
        "mps": not number and torch.backends.mps.is_available(),
    }
    if kind not in available:
        raise ModelError(f"device: unknown {name!r}; write auto, cpu, cuda, cuda:1, mps, spread or shard")
    if not available[kind]:
        raise ModelError(f"device: {name!r} is not available; write auto, or leave it out")
    return name


def read_config(path: Path, name: str) -> PreTrainedConfig:
    """The config of a speech LLM that can be a base, from its folder. Raises `ModelError` for any other kind of model.

    name: the name of the model in errors.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (ValueError, OSError, KeyError) as error:
        problem = f"its config.json names no model type: {first_line(error)}"
        raise ModelError(f"base {name!r}: {problem}; save the model again with save_pretrained") from None
    kind = config.model_type
    if kind == ComposedConfig.model_type or kind in FAMILIES:
        return config
    way_out = "give a supported model type (`adapt ls models`)"
    if why := refusal(kind):
        raise ModelError(f"base {name!r}: not supported: a {kind!r} model, {why}; {way_out}")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        problem = f"a text-only LLM ({kind!r}), which takes no audio"
        raise ModelError(f"base {name!r}: {problem}; give a speech LLM, or build one around it with `adapt base`")
    raise ModelError(f"base {name!r}: a {kind!r} model, which takes no audio; {way_out}")


def _weights(cls: type[PreTrainedModel], path: Path, strict: bool = False, **arguments) -> PreTrainedModel:
    """A model from its folder. strict: whether weights without a place in the class are an error.

    Raises `ModelError` for weights that are missing, have another shape, or cannot be loaded.
    """
    try:
        model, report = cls.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **arguments)
    except OSError as error:
        reason = first_line(error)
        raise ModelError(f"{path}: holds no weights: {reason}; save the model with save_pretrained") from None
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: its weights cannot be read: {first_line(error)}; copy them again") from None
    except ImportError as error:
        problem = f"{cls.__name__} cannot be built: {first_line(error)}"
        raise ModelError(f"{path}: {problem}; install the package that it names") from None
    wrong = [*report["missing_keys"], *report["mismatched_keys"], *(report["unexpected_keys"] if strict else ())]
    if wrong:
        raise ModelError(f"{path}: {len(wrong)} weights do not fit, first {wrong[0]!r}; save the model again")
    return model


def _quantised(bits: int, device: str) -> dict:
    """The arguments of `from_pretrained` for 8 or 4 bits. Raises `ModelError` without CUDA or bitsandbytes."""
    if not torch.cuda.is_available() or device in ("cpu", "mps"):
        raise ModelError(f"quantise: {bits} bits need CUDA, but the device is {device!r}; leave it out")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError("quantise: needs bitsandbytes; pip install bitsandbytes") from None
    config = transformers.BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    return {"quantization_config": config, "device_map": "auto" if device == "spread" else device}


def _processor(path: Path, config: PreTrainedConfig) -> ProcessorMixin:
    """The processor in a folder. Raises `ModelError` if it cannot be loaded, or takes no audio with text."""
    package = family_of(config).needs
    if package and not find_spec(package):
        raise ModelError(f"{path}: the processor of {config.model_type} needs {package}; pip install {package}")
    try:
        processor = AutoProcessor.from_pretrained(path)
    except (ValueError, OSError, ImportError, TypeError) as error:
        problem = f"{path}: its processor cannot be loaded: {first_line(error)}"
        raise ModelError(f"{problem}; save it into that folder with processor.save_pretrained") from None
    if not isinstance(processor, ProcessorMixin):
        problem = f"holds a {type(processor).__name__} alone, no processor of audio and text"
        raise ModelError(f"{path}: {problem}; save that into the folder with processor.save_pretrained")
    return processor


def longest(name: str) -> float:
    """The seconds of the longest recording that a base takes at once (`SpeechLLM.max_seconds`), without its weights.

    Raises `ModelError` as `find_base` and `read_config` do.
    """
    config = read_config(find_base(name), name)
    return config.max_seconds if isinstance(config, ComposedConfig) else MAX_SECONDS


def load_tokenizer(name: str) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a speech LLM, and the number of outputs of its decoder.

    Raises `ModelError` as `find_base` and `read_config` do.
    """
    path = find_base(name)
    config = read_config(path, name)
    if isinstance(config, ComposedConfig):
        tokenizer = AutoTokenizer.from_pretrained(path)
    else:
        tokenizer = _processor(path, config).tokenizer
    return tokenizer, getattr(config, "thinker_config", config).get_text_config(decoder=True).vocab_size


def view(name: str, model: ComposedForSpeechRecognition, tokenizer: PreTrainedTokenizerBase) -> SpeechLLM:
    """The `SpeechLLM` of a composed model in memory."""
    if model.config.projector == "first-pass":
        model.projector.encode = word_ids(tokenizer)
    ends, max_seconds = [tokenizer.eos_token_id], model.config.max_seconds
    speech_llm = SpeechLLM(name, model, tokenizer, before=[], after=[], ends=ends, max_seconds=max_seconds)
    return learned_prompt.with_template(speech_llm, model.config.prompt)


def view_with_processor(
    name: str, model: PreTrainedModel, processor: ProcessorMixin, language: str = "en"
) -> SpeechLLM:
    """The `SpeechLLM` of a model of transformers in memory. Raises `ModelError` if its processor writes no slot."""
    request = family_of(model.config).request
    try:
        before, after = ids_around_slot(processor, request, audio_token_id(model.config), language, name)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        problem = f"{name}: its processor writes no prompt with a slot for audio: {first_line(error)}"
        raise ModelError(f"{problem}; use the processor that was saved with the model") from error
    return SpeechLLM(
        name,
        model,
        processor.tokenizer,
        before,
        after,
        ends=end_tokens(model, processor.tokenizer),
        max_seconds=MAX_SECONDS,
        processor=processor,
        language=language,
        scale=missing_logits_scaling(model),
        processor_prompt=(before, after),
    )


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a transcript, from the generation config; the tokenizer's comes first if it is one of them."""
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    first = tokenizer.eos_token_id
    return list(dict.fromkeys(([first] if first in ends or not ends else []) + ends))


@torch.no_grad()
def missing_logits_scaling(model: PreTrainedModel) -> float:
    """The divisor of the logits in the decoder's config, if the model does not apply it; else 1.

    Granite's LLM divides its logits by `logits_scaling`; transformers' Granite Speech, which contains it, does not.
    """
    scaling = getattr(model.config.get_text_config(decoder=True), "logits_scaling", 1.0)
    if scaling == 1.0:
        return 1.0
    rows = model.get_input_embeddings()(torch.arange(8, device=model.device))[None]
    states = model.get_decoder()(inputs_embeds=rows).last_hidden_state
    unscaled, logits = model.get_output_embeddings()(states).float(), model(inputs_embeds=rows).logits.float()
    return scaling if (logits - unscaled).norm() < (logits - unscaled / scaling).norm() else 1.0


def merge_own_lora(model: PreTrainedModel) -> None:
    """Merge the LoRA that comes with a base, in place: adaptation builds on it, and `generate` cannot disable it."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    if layers:
        model._hf_peft_config_loaded = False
        del model.peft_config
        model._weight_conversions = None  # otherwise the saved weights would have the names of a model with an adapter
