"""What SLAM-LLM trains, as a model of our own: its projector and LoRA, with the encoder and the LLM they belong to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.errors import ModelError, RecipeError, first_line
from adapt.model import soft_prompt
from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
from adapt.model.encoders import pretrained
from adapt.text.template import CHAT, CHAT_MARK, SLOT, parse

PROJECTOR = {f"encoder_projector.linear{i}.{kind}": f"linear{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
LORA = re.compile(r"llm\.base_model\.model\.(?P<layer>.+)\.lora_(?P<half>[AB])\.(?:default\.)?weight")


def from_slam(checkpoint: Path, encoder: str, llm: str, out: Path, prompt: str, lora_alpha: float = 32) -> None:
    """Write the composed model of a `model.pt` of SLAM-LLM's: every key of it has its place, or it is refused.

    encoder, llm: folders or names of those it was trained with. prompt: template, after SLAM-LLM's `prompt_template`.
    lora_alpha: of the LoRA, if there is one, which is merged. How many frames are stacked is read from the projector.
    Raises `ModelError` for keys without a place, and for weights that do not fit encoder or LLM.
    """
    if any(segment.kind == CHAT for segment in parse(prompt)):
        raise RecipeError(f"prompt: {CHAT_MARK}: SLAM-LLM writes its prompts as they are; write the whole of it")
    state = _state(checkpoint)
    unknown = [key for key in state if key not in PROJECTOR and not LORA.fullmatch(key)]
    missing = [key for key in PROJECTOR if key not in state]
    if unknown or missing:
        told = f"{len(unknown)} keys without a place, first {unknown[0]!r}" if unknown else f"no {missing[0]!r}"
        raise ModelError(f"{checkpoint}: {told}; only linear projectors and LoRA of the LLM can be taken over")
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out}: is not empty; choose another folder")
    try:
        ears = pretrained(encoder, "")
        decoder = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(llm)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(
            f"encoder {encoder!r}, LLM {llm!r}: cannot be loaded: {reason}; name both as they are"
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token and tokenizer.bos_token not in prompt:
        # As SLAM-LLM encodes its prompt, behind the audio.
        prompt = prompt.replace(SLOT, SLOT + tokenizer.bos_token) if SLOT in prompt else tokenizer.bos_token + prompt
    _merge(checkpoint, decoder, state, lora_alpha)
    size, taken = state["encoder_projector.linear1.weight"].shape
    width, given, hidden = ears.encoder.config.hidden_size, len(state["encoder_projector.linear2.bias"]), decoder.config
    if taken % width:
        raise ModelError(
            f"{checkpoint}: its projector takes {taken} values, no stack of {encoder}'s {width}; name its own"
        )
    if given != hidden.hidden_size:
        raise ModelError(f"{checkpoint}: its projector gives {given} values where {llm} has {hidden.hidden_size}")
    config = ComposedConfig(
        audio_config=ears.config.audio_config,
        alphabet="",
        text_config=decoder.config,
        stack=taken // width,
        projector="mlp",
        projector_size=size,
        prompt=prompt,
        audio_token_id=tokenizer.get_vocab().get(SLOT, max(len(tokenizer), hidden.vocab_size)),
        whole_stacks=True,
    )
    model = ComposedForSpeechRecognition(config)
    model.encoder.load_state_dict(ears.state_dict())
    model.language_model.load_state_dict(decoder.state_dict())
    model.projector.load_state_dict({ours: state[theirs] for theirs, ours in PROJECTOR.items()})
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _state(checkpoint: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)  # tensors alone, no code
    except FileNotFoundError:
        raise ModelError(f"{checkpoint}: no such file; name the model.pt that SLAM-LLM wrote") from None
    except Exception as error:  # torch.load says it in many ways
        raise ModelError(
            f"{checkpoint}: not a file of tensors: {first_line(error)}; name the model.pt that SLAM-LLM wrote"
        ) from None
    state = state.get("model", state) if isinstance(state, dict) else {}
    return {key: value.float() for key, value in state.items() if isinstance(value, torch.Tensor)}


def _merge(checkpoint: Path, decoder: torch.nn.Module, state: dict[str, torch.Tensor], alpha: float) -> None:
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if found := LORA.fullmatch(key):
            halves.setdefault(found["layer"], {})[found["half"]] = value
    layers = dict(decoder.named_modules())
    for name, half in halves.items():
        if name not in layers or set(half) != {"A", "B"}:
            reason = "has one half of a LoRA alone" if name in layers else "is no layer of the LLM"
            raise ModelError(f"{checkpoint}: {name!r} {reason}; name the LLM that it was trained with")
        layers[name].weight.data += alpha / len(half["A"]) * half["B"] @ half["A"]


def soft_prompt_of(folder: Path, out: Path) -> int:
    """Write the vectors of a PEFT prompt-tuning adapter as a soft prompt; their number comes back.

    Raises `ModelError` when the folder holds another kind of adapter.
    """
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    kind = json.loads(config.read_text(encoding="utf-8")).get("peft_type") if config.exists() else None
    if kind != "PROMPT_TUNING" or not weights.exists():
        told = f"a {kind} adapter" if kind else "no adapter_config.json"
        raise ModelError(
            f"{folder}: holds {told}, not prompt tuning with adapter_model.safetensors; only that is taken"
        )
    state = load_file(weights)
    if set(state) != {"prompt_embeddings"}:
        raise ModelError(f"{folder}: expected prompt_embeddings alone, got {', '.join(sorted(state))}")
    soft_prompt.save_soft_prompt(out, state["prompt_embeddings"].float())
    return len(state["prompt_embeddings"])
