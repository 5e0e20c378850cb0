"""Adapters on disk: what plain PEFT reads, the soft prompt beside it, and our own metadata."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import peft
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from adapt.errors import ModelError, first_line
from adapt.model import learned_prompt
from adapt.model.bases import fingerprint
from adapt.model.soft_prompt import save_soft_prompt
from adapt.model.speech_llm import SpeechLLM

WEIGHTS = "adapter_model.safetensors"
LEARNED = learned_prompt.FILE

CARD = """---
base_model: {base}
library_name: peft
tags: [speech-recognition, domain-adaptation, lora]
---
# {name}

A LoRA adapter of the decoder of `{base}`, tuned with adapt-asr on text
alone. What stood in the slot while it was tuned: `{pseudo_audio}`. Real audio takes the slot back at inference;
`soft_prompt.safetensors`, if it is here, is not needed then.

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base, "{folder}")
```
"""


def linear_layers(decoder: torch.nn.Module, name: str, attention: bool = False) -> list[str]:
    """Full names of the linear layers in the blocks of a decoder that is called `name`.

    `attention`: only those of attention; q, k, v and o where a family has them apart, and what it has in their place.
    Names in full and no pattern: of models with experts PEFT takes a pattern to pieces, and reaches the audio tower
    with them. Raises `ModelError` for none.
    """
    layers = []
    for path, module in decoder.named_modules():
        inside, _, _ = path.rpartition(".")
        # A block has a number; what stands outside of them, the head among it, has none.
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or not any(map(str.isdigit, inside.split("."))):
            continue
        if not attention or "attention" in type(decoder.get_submodule(inside)).__name__.lower():
            layers.append(f"{name}.{path}")
    if not layers:
        raise ModelError(f"{type(decoder).__name__}: has no linear layers to put LoRA on; take another decoder")
    return layers


def add_lora(speech_llm: SpeechLLM, rank: int, alpha: int, dropout: float) -> peft.PeftModel:
    """Freeze the model and put a fresh LoRA on every linear layer of its decoder's blocks, and nowhere else.

    Names are knowledge, and that sits in the feed-forward layers as much as in attention.
    """
    logging.getLogger("peft").setLevel(logging.ERROR)
    decoder = speech_llm.model.get_decoder()
    name = next(name for name, module in speech_llm.model.named_modules() if module is decoder)
    layers = linear_layers(decoder, name)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=layers)
    model = peft.get_peft_model(speech_llm.model, config)
    # With a name PEFT would look on the hub, each time it saves, for a changed vocabulary.
    model.peft_config["default"].base_model_name_or_path = None
    return model


def save_adapter(
    folder: Path,
    model: peft.PeftModel,
    metadata: dict,
    soft_prompt: torch.Tensor | None = None,
    speech_llm: SpeechLLM | None = None,
) -> None:
    """Write the adapter, then read it back and compare. Raises `ModelError` when they differ.

    speech_llm: whose learned prompt, if it has one, belongs to the adapter.
    """
    model.peft_config["default"].base_model_name_or_path = metadata["base"]
    model.save_pretrained(folder, save_embedding_layers=False)
    if soft_prompt is not None:
        save_soft_prompt(folder / "soft_prompt.safetensors", soft_prompt)
    if speech_llm is not None and speech_llm.learned:
        speech_llm.learned.save(folder / LEARNED, speech_llm)
    about = {"format": 1, **metadata, "base_sha": fingerprint(metadata["base"])}
    (folder / "adapt.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    # PEFT writes a README of its own: ours comes last.
    card = CARD.format(folder=folder.name, **metadata)
    (folder / "README.md").write_text(card, encoding="utf-8")
    _compare(folder, model)


def attach(speech_llm: SpeechLLM, folder: Path, name: str = "default") -> SpeechLLM:
    """Load an adapter into the model (in place), and use it; under other names others can be beside it.

    Raises `ModelError` when it is for another base, and when a weight has no place or is missing.
    """
    folder = Path(folder)
    if not (folder / WEIGHTS).exists():
        raise ModelError(f"{folder}: no {WEIGHTS} there; name the folder of an adapter, such as runs/music/adapter")
    if not (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: no adapter_config.json there; copy the folder whole, or make it again")
    _check(speech_llm, folder)
    with warnings.catch_warnings():  # PEFT warns of what _compare refuses
        warnings.simplefilter("ignore")
        try:
            if speech_llm.adapters is None:
                speech_llm.adapters = peft.PeftModel.from_pretrained(speech_llm.model, str(folder), name)
            else:
                speech_llm.adapters.load_adapter(str(folder), name)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = first_line(error)
            raise ModelError(f"{folder}: does not fit {speech_llm.name}: {reason}; name its own base") from error
    _compare(folder, speech_llm.adapters, name)
    speech_llm.model.eval()
    if (folder / LEARNED).exists():
        speech_llm.prompts[name] = learned_prompt.load_learned_prompt(folder / LEARNED, speech_llm)
    speech_llm.use(name)
    return speech_llm


def metadata_of(folder: Path) -> dict:
    """What `save` told of an adapter; {} of one that others saved. Raises `ModelError` where it is broken."""
    told = folder / "adapt.json"
    try:
        return dict(json.loads(told.read_text(encoding="utf-8"))) if told.exists() else {}
    except (ValueError, TypeError):
        raise ModelError(f"{told}: not the JSON that was written there; copy the folder again, or tune anew") from None


def _check(speech_llm: SpeechLLM, folder: Path) -> None:
    """Raises `ModelError` for an adapter of another base, or of the LLM within it."""
    made_for = metadata_of(folder)
    if "base_sha" in made_for and made_for["base_sha"] != (here := fingerprint(speech_llm.name)):
        told = f"made for {made_for['base']} ({made_for['base_sha']}), and {speech_llm.name} is {here}"
        raise ModelError(f"{folder}: {told}; give --base its own base, or adapt this one")
    try:
        with safe_open(folder / WEIGHTS, "pt") as weights:
            keys = list(weights.keys())
    except SafetensorError as error:
        raise ModelError(f"{folder}/{WEIGHTS}: cannot be read: {error}; copy it again") from None
    modules = dict(speech_llm.model.named_modules())
    layer = next(iter(keys), "").removeprefix("base_model.model.").rpartition(".lora_")[0]
    decoder = next(name for name, module in modules.items() if module is speech_llm.model.get_decoder())
    ending = "." + layer.removeprefix("model.")
    inner = next((name for name in modules if name.startswith(f"{decoder}.") and name.endswith(ending)), None)
    if layer not in modules and inner:
        told = f"a LoRA of the LLM alone: it calls a layer {layer!r}, and here that is {inner!r}"
        raise ModelError(f"{folder}: {told}; PEFT would load it without effect: train it on the whole speech LLM")


def _compare(folder: Path, model: peft.PeftModel, name: str = "default") -> None:
    written = load_file(folder / WEIGHTS)
    held = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    amiss = sorted(set(written) ^ set(held))
    amiss += [key for key in written if key in held and not torch.equal(written[key], held[key].cpu())]
    if amiss:
        raise ModelError(f"{folder}: {len(amiss)} weights have no place or differ, first {amiss[0]!r}; save it again")
