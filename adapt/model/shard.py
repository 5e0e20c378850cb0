"""Divide the decoder of a base among the processes of a launch, where it is trained without being changed itself.

Each process holds a part of every layer (FSDP). The layers gather their parts for each pass through them, so all
processes have to make the same passes, in the same order.
"""

from __future__ import annotations

import torch

from adapt.errors import ModelError
from adapt.model.packing import can_pack
from adapt.model.speech_llm import SpeechLLM


def check_shard(quantise: int | None) -> None:
    """Raises `ModelError` if the process is alone, for a number of bits, and for a torch whose FSDP cannot recover.

    quantise: as in `load_speech_llm`.
    """
    if not torch.distributed.is_initialized():
        problem = "device: 'shard' divides a base among the processes of a launch, but this process is alone"
        raise ModelError(f"{problem}; launch several with `accelerate launch -m adapt`, or give spread")
    if quantise:
        raise ModelError(f"quantise: {quantise} bits: not for device 'shard'; leave out one of the two")
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ModelError("device: 'shard' needs torch 2.13; install it, or give spread")


def shard(speech_llm: SpeechLLM, device: str) -> SpeechLLM:
    """Freeze a model, and divide the layers of its decoder (in place); all else is whole in each process.

    device: that of the process, to which everything moves. Raises `ModelError` for a decoder without layers.
    """
    from torch.distributed.fsdp import fully_shard

    model, decoder = speech_llm.model.requires_grad_(False), speech_llm.model.get_decoder()
    layers = _layers(decoder, model.config.get_text_config(decoder=True).num_hidden_layers)
    if not layers:
        raise ModelError(f"{speech_llm.name}: its decoder has no list of layers to divide; give --device spread")
    others = set(model.parameters()) - {parameter for layer in layers for parameter in layer.parameters()}
    for layer in layers:
        fully_shard(layer)
    # The decoder around them has no parts of its own: embeddings are also read outside of a pass.
    fully_shard(decoder, ignored_params=others)
    for tensor in (*others, *model.buffers()):
        tensor.data = tensor.data.to(device)
    speech_llm.packs = can_pack(speech_llm)  # the only passes that may fail halfway, in all processes at one place
    speech_llm.caches = False  # processes would make different numbers of passes
    decoder.reset_iter_state()
    return speech_llm


def _layers(decoder: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """The `count` layers of a decoder, not those of an encoder that it may contain; [] if it has no list of them."""
    lists = {name: m for name, m in decoder.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count}
    return list(lists[min(lists, key=lambda name: name.count("."))]) if lists else []
