"""Convert models of SLAM-LLM: a composed model from its projector and LoRA, a soft prompt from its tuned prompt."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from adapt.errors import ModelError, RecipeError, first_line
from adapt.model import soft_prompt
from adapt.model.compose import compose
from adapt.model.encoders import CtcEncoder, pretrained
from adapt.model.lora_weights import LoraWeights
from adapt.text.template import CHAT, CHAT_MARK, SLOT, parse

PROJECTOR = {f"encoder_projector.linear{i}.{kind}": f"linear{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
LORA = re.compile(r"llm\.base_model\.model\.(?P<layer>.+)\.lora_(?P<half>[AB])\.(?:default\.)?weight")


def from_slam(checkpoint: Path, encoder: str, llm: str, out: Path, prompt: str, lora_alpha: float = 32) -> None:
    """Write the composed model of a `model.pt` of SLAM-LLM, which contains every weight of that file, to `out`.

    encoder, llm: folders or names of the models that it was trained with. prompt: the prompt template that corresponds
    to SLAM-LLM's `prompt_template`. lora_alpha: scale of its LoRA, if it has one, which is merged. Frame stacking
    follows from the shape of the projector. Raises `RecipeError` for a prompt with a chat template, and `ModelError`
    for weights that have no place in a composed model or do not fit encoder or LLM.
    """
    if any(segment.kind == CHAT for segment in parse(prompt)):
        raise RecipeError(f"prompt: {CHAT_MARK}: SLAM-LLM uses no chat template; write the whole prompt")
    state = _state(checkpoint)
    _check_keys(checkpoint, state)
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out}: is not empty; choose another folder")
    audio_encoder, decoder, tokenizer = _load_parts(encoder, llm)
    if tokenizer.bos_token and tokenizer.bos_token not in prompt:
        # SLAM-LLM tokenises its prompt with the beginning of sentence, after the audio.
        prompt = prompt.replace(SLOT, SLOT + tokenizer.bos_token) if SLOT in prompt else tokenizer.bos_token + prompt
    _merge(checkpoint, decoder, state, lora_alpha)
    projector_size, inputs = state["encoder_projector.linear1.weight"].shape
    outputs = len(state["encoder_projector.linear2.bias"])
    width, hidden = audio_encoder.encoder.config.hidden_size, decoder.config.hidden_size
    if inputs % width:
        problem = f"its projector has {inputs} inputs, which is no multiple of the {width} outputs of {encoder!r}"
        raise ModelError(f"{checkpoint}: {problem}; name the encoder that it was trained with")
    if outputs != hidden:
        problem = f"its projector has {outputs} outputs, but the hidden size of {llm!r} is {hidden}"
        raise ModelError(f"{checkpoint}: {problem}; name the LLM that it was trained with")
    model = compose(
        audio_encoder,
        decoder,
        tokenizer,
        stack=inputs // width,
        projector="mlp",
        projector_size=projector_size,
        prompt=prompt,
        whole_stacks=True,
    )
    model.projector.load_state_dict({name: state[slam_name] for slam_name, name in PROJECTOR.items()})
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, in float32. Raises `ModelError` if it cannot be read."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)  # tensors only: other pickles run code
    except FileNotFoundError:
        raise ModelError(f"{checkpoint}: no such file; name the model.pt that SLAM-LLM wrote") from None
    except Exception as error:  # torch.load raises many types
        raise ModelError(
            f"{checkpoint}: not a file of tensors: {first_line(error)}; name the model.pt that SLAM-LLM wrote"
        ) from None
    state = state.get("model", state) if isinstance(state, dict) else {}
    return {key: value.float() for key, value in state.items() if isinstance(value, torch.Tensor)}


def _check_keys(checkpoint: Path, state: dict[str, torch.Tensor]) -> None:
    """Raises `ModelError` for keys that are neither of the projector nor of LoRA, and for an incomplete projector."""
    unknown = [key for key in state if key not in PROJECTOR and not LORA.fullmatch(key)]
    missing = [key for key in PROJECTOR if key not in state]
    if unknown or missing:
        problem = f"{len(unknown)} keys without a place, first {unknown[0]!r}" if unknown else f"no {missing[0]!r}"
        raise ModelError(f"{checkpoint}: {problem}; only MLP projectors and LoRA of the LLM can be converted")


def _load_parts(encoder: str, llm: str) -> tuple[CtcEncoder, PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder, without a CTC alphabet, and the LLM with its tokenizer. Raises `ModelError` if loading fails."""
    try:
        audio_encoder = pretrained(encoder, "")
        decoder = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32)
        return audio_encoder, decoder, AutoTokenizer.from_pretrained(llm)
    except (OSError, ValueError) as error:
        problem = f"encoder {encoder!r}, LLM {llm!r}: cannot be loaded: {first_line(error)}"
        raise ModelError(f"{problem}; give the folder or the name of each") from None


def _merge(checkpoint: Path, decoder: torch.nn.Module, state: dict[str, torch.Tensor], alpha: float) -> None:
    """Merge the LoRA of a checkpoint into the decoder; in place."""
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if match := LORA.fullmatch(key):
            halves.setdefault(match["layer"], {})[match["half"]] = value
    layers = dict(decoder.named_modules())
    for name, half in halves.items():
        if name not in layers or set(half) != {"A", "B"}:
            reason = "has only one half of a LoRA" if name in layers else "is no layer of the LLM"
            raise ModelError(f"{checkpoint}: {name!r} {reason}; name the LLM that it was trained with")
    scaled = {name: (half["A"], alpha / len(half["A"]) * half["B"]) for name, half in halves.items()}
    LoraWeights(scaled).merge_into(decoder)


def soft_prompt_of(folder: Path, out: Path) -> int:
    """Write the vectors of a PEFT prompt-tuning adapter to `out` as a soft prompt, and return their number.

    Raises `ModelError` if the folder holds another kind of adapter, or none.
    """
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    kind = json.loads(config.read_text(encoding="utf-8")).get("peft_type") if config.exists() else None
    if kind != "PROMPT_TUNING" or not weights.exists():
        problem = f"holds a {kind!r} adapter" if kind else "holds no adapter_config.json"
        raise ModelError(f"{folder}: {problem}; give the folder of a prompt-tuning adapter of PEFT")
    state = load_file(weights)
    if set(state) != {"prompt_embeddings"}:
        problem = f"holds {', '.join(map(repr, sorted(state)))}, not 'prompt_embeddings' alone"
        raise ModelError(f"{folder}: {problem}; give the folder of a prompt-tuning adapter of PEFT")
    soft_prompt.save_soft_prompt(out, state["prompt_embeddings"].float())
    return len(state["prompt_embeddings"])
