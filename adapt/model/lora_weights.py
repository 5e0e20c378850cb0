"""The weights of a LoRA apart from a model: taken from PEFT, merged into a model, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer, LoraModel

from adapt.errors import ModelError


@dataclass(frozen=True)
class LoraWeights:
    """halves: A `[rank, in]` and B `[out, rank]` of each layer, by the layer's name; B holds alpha / rank too."""

    halves: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(cls, lora: LoraModel) -> LoraWeights:
        """Copies of the weights of all LoRA layers of PEFT in the model of `lora`."""
        halves = {}
        for name, layer in lora.model.named_modules():
            if isinstance(layer, LoraLayer):
                (adapter,) = layer.lora_A
                a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                halves[name] = (a.detach().float().clone(), layer.scaling[adapter] * b.detach().float())
        return cls(halves)

    @torch.no_grad()
    def merge_into(self, model: torch.nn.Module) -> None:
        """Add B @ A to the weights of each layer; in place. Raises ModelError for a layer without a place."""
        layers = dict(model.named_modules())
        for name, (a, b) in self.halves.items():
            if name not in layers or layers[name].weight.shape != (b.shape[0], a.shape[1]):
                raise ModelError(f"LoRA: {name!r} is no layer of the model, or has another shape; take its own LLM")
            weight = layers[name].weight
            weight += (b.to(weight.device) @ a.to(weight.device)).to(weight.dtype)
