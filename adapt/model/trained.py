"""What was trained of a composed speech LLM, apart from the pretrained parts that stayed as they were."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adapt.errors import ModelError
from adapt.model.composed import ComposedForSpeechRecognition
from adapt.model.lora_weights import LoraWeights

TRAINED = "trained.safetensors"
PRETRAINED = ("encoder.encoder.", "language_model.")  # names of the weights of the pretrained parts begin so


def save_trained(model: ComposedForSpeechRecognition, lora: LoraWeights | None, path: Path) -> None:
    """Write the weights beside the pretrained parts, and the LoRA of the decoder."""
    state = {name: w for name, w in model.state_dict().items() if not name.startswith(PRETRAINED)}
    for layer, halves in (lora.halves if lora else {}).items():
        state |= {f"{layer}.lora_{half_name}": w for half_name, w in zip("AB", halves, strict=True)}
    state = {name: w.cpu().contiguous() for name, w in state.items()}
    save_file(state, path)


def load_trained(model: ComposedForSpeechRecognition, path: Path) -> None:
    """Put what `save_trained` wrote into a model of its parts, and merge the LoRA; in place.

    Raises ModelError if weights are missing or have no place.
    """
    with safe_open(path, "pt") as content:
        names = list(content.keys())
        lora = {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}
        halves = {
            n: (content.get_tensor(f"{n}.lora_A").float(), content.get_tensor(f"{n}.lora_B").float()) for n in lora
        }
        plain = {
            name: content.get_tensor(name) for name in names if name.rpartition(".")[2] not in ("lora_A", "lora_B")
        }
    state = model.state_dict()
    expected = {name for name in state if not name.startswith(PRETRAINED)}
    wrong = expected ^ plain.keys() or {n for n, w in plain.items() if state[n].shape != w.shape}
    if wrong:
        raise ModelError(f"{path}: {len(wrong)} weights do not fit, first {sorted(wrong)[0]!r}; make the base again")
    with torch.no_grad():
        for name, weights in plain.items():
            state[name].copy_(weights)
    LoraWeights(halves).merge_into(model)
