"""Adapters on disk: the files of PEFT, the prompts beside them, and metadata (`adapt.json`)."""

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

A LoRA adapter of the decoder of `{base}`, tuned with adapt-asr on text alone. During tuning the slot for audio
embeddings held `{pseudo_audio}`; at inference it holds the embeddings of real audio, and `soft_prompt.safetensors`,
if it is here, is not needed.

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base, "{folder}")
```
"""


def linear_layers(decoder: torch.nn.Module, name: str, attention: bool = False) -> list[str]:
    """Full names of the linear layers in the blocks of a decoder that the model has under `name`.

    attention: only the layers of attention modules (q, k, v, o, or their counterparts). The names are full, and no
    pattern, because PEFT splits a pattern for models with experts, and its parts match the audio encoder too. Raises
    `ModelError` if there are no such layers.
    """
    layers = []
    for path, module in decoder.named_modules():
        inside, _, _ = path.rpartition(".")
        # The name of a block has a number; modules outside of the blocks, such as the head, have none.
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or not any(map(str.isdigit, inside.split("."))):
            continue
        if not attention or "attention" in type(decoder.get_submodule(inside)).__name__.lower():
            layers.append(f"{name}.{path}")
    if not layers:
        raise ModelError(f"{type(decoder).__name__}: has no linear layers to put LoRA on; take another decoder")
    return layers


def add_lora(speech_llm: SpeechLLM, rank: int, alpha: int, dropout: float) -> peft.PeftModel:
    """Freeze the model and put a new LoRA on every linear layer of its decoder's blocks, and nowhere else.

    Feed-forward layers are included, because names are knowledge, which these layers store as much as attention does.
    """
    logging.getLogger("peft").setLevel(logging.ERROR)
    decoder = speech_llm.model.get_decoder()
    name = next(name for name, module in speech_llm.model.named_modules() if module is decoder)
    layers = linear_layers(decoder, name)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=layers)
    model = peft.get_peft_model(speech_llm.model, config)
    # With a name here, PEFT would ask the hub at each save whether the vocabulary has changed.
    model.peft_config["default"].base_model_name_or_path = None
    return model


def save_adapter(
    folder: Path,
    model: peft.PeftModel,
    metadata: dict,
    soft_prompt: torch.Tensor | None = None,
    speech_llm: SpeechLLM | None = None,
) -> None:
    """Write an adapter, then read it back and compare. Raises `ModelError` if the two differ.

    metadata: `name`, `base` and `pseudo_audio` at least; it is written to adapt.json. soft_prompt: vectors
    `[length, hidden]` to write beside the adapter; None for none. speech_llm: the model whose learned prompt, if it has
    one, belongs to the adapter; None for none.
    """
    model.peft_config["default"].base_model_name_or_path = metadata["base"]
    model.save_pretrained(folder, save_embedding_layers=False)
    if soft_prompt is not None:
        save_soft_prompt(folder / "soft_prompt.safetensors", soft_prompt)
    if speech_llm is not None and speech_llm.learned:
        speech_llm.learned.save(folder / LEARNED, speech_llm)
    metadata = {"format": 1, **metadata, "base_sha": fingerprint(metadata["base"])}
    (folder / "adapt.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    # Last, because PEFT writes a README too.
    card = CARD.format(folder=folder.name, **metadata)
    (folder / "README.md").write_text(card, encoding="utf-8")
    _compare(folder, model)


def attach(speech_llm: SpeechLLM, folder: Path, name: str = "default") -> SpeechLLM:
    """Load an adapter into the model (in place) and use it; a model can hold several under different names.

    Raises `ModelError` for an adapter of another base, and if a weight is missing or has no place.
    """
    folder = Path(folder)
    if not (folder / WEIGHTS).exists():
        raise ModelError(f"{folder}: holds no {WEIGHTS}; give the folder of an adapter, such as runs/music/adapter")
    if not (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: holds no adapter_config.json; copy the whole folder, or train it again")
    _check_base(speech_llm, folder)
    with warnings.catch_warnings():  # PEFT warns of missing weights, for which `_compare` raises an error
        warnings.simplefilter("ignore")
        try:
            if speech_llm.adapters is None:
                speech_llm.adapters = peft.PeftModel.from_pretrained(speech_llm.model, str(folder), name)
            else:
                speech_llm.adapters.load_adapter(str(folder), name)
        except Exception as error:  # PEFT fails in many ways at a broken adapter_config.json
            reason = first_line(error)
            raise ModelError(f"{folder}: does not fit {speech_llm.name}: {reason}; load its own base") from error
    _compare(folder, speech_llm.adapters, name)
    speech_llm.model.eval()
    if (folder / LEARNED).exists():
        speech_llm.prompts[name] = learned_prompt.load_learned_prompt(folder / LEARNED, speech_llm)
    speech_llm.use(name)
    return speech_llm


def metadata_of(folder: Path) -> dict:
    """The metadata that `save_adapter` wrote; {} for adapters of other tools. Raises `ModelError` for a broken file."""
    file = folder / "adapt.json"
    try:
        metadata = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if (
            not isinstance(metadata, dict)
            or not all(isinstance(metadata.get(key, ""), str) for key in ("base", "base_sha"))
            or ("base_sha" in metadata and "base" not in metadata)
        ):
            raise ValueError
        return metadata
    except (ValueError, RecursionError):
        raise ModelError(f"{file}: not as it was written; copy the folder again, or train the adapter again") from None


def _check_base(speech_llm: SpeechLLM, folder: Path) -> None:
    """Raises `ModelError` for an adapter of another base, or of the LLM alone."""
    metadata = metadata_of(folder)
    if "base_sha" in metadata and metadata["base_sha"] != (sha := fingerprint(speech_llm.name)):
        problem = f"made for {metadata['base']} ({metadata['base_sha']}), but {speech_llm.name} is {sha}"
        raise ModelError(f"{folder}: {problem}; load its own base, or adapt this one")
    try:
        with safe_open(folder / WEIGHTS, "pt") as weights:
            keys = list(weights.keys())
    except SafetensorError as error:
        raise ModelError(f"{folder}/{WEIGHTS}: cannot be read: {error}; copy it again") from None
    modules = dict(speech_llm.model.named_modules())
    layer = next(iter(keys), "").removeprefix("base_model.model.").rpartition(".lora_")[0]
    decoder = next(name for name, module in modules.items() if module is speech_llm.model.get_decoder())
    ending = "." + layer.removeprefix("model.")
    same_layer = next((name for name in modules if name.startswith(f"{decoder}.") and name.endswith(ending)), None)
    if layer not in modules and same_layer:
        problem = f"a LoRA of the LLM alone, which PEFT would load without effect: its {layer!r} is {same_layer!r} here"
        raise ModelError(f"{folder}: {problem}; train it on the whole speech LLM")


def _compare(folder: Path, model: peft.PeftModel, name: str = "default") -> None:
    """Raises `ModelError` if the weights on disk are not those of the adapter in the model."""
    on_disk = load_file(folder / WEIGHTS)
    in_model = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    wrong = sorted(set(on_disk) ^ set(in_model))
    wrong += [key for key in on_disk if key in in_model and not torch.equal(on_disk[key], in_model[key].cpu())]
    if wrong:
        raise ModelError(f"{folder}: {len(wrong)} weights have no place or differ, first {wrong[0]!r}; save it again")
