"""Trainable blocks between a pretrained audio encoder and its CTC head."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ParakeetEncoderConfig
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderBlock, ParakeetEncoderRelPositionalEncoding


class UpperBlocks(nn.Module):
    """`stack` frames side by side -> linear -> Conformer blocks.

    width: of the frames below. size: of the frames above. layers, heads: as in a Conformer. Frames are standardised
    with `mean` and `std`, `[width]`, which `set_statistics` sets.
    """

    def __init__(self, width: int, *, size: int, layers: int, heads: int, stack: int):
        super().__init__()
        self.size, self.stack = size, stack
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.linear = nn.Linear(stack * width, size)
        config = ParakeetEncoderConfig(
            hidden_size=size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * size,
            conv_kernel_size=15,
            scale_input=False,
            # No dropout: training masks frames instead.
            **dict.fromkeys(("dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0),
        )
        config._attn_implementation = "sdpa"
        self.positions = ParakeetEncoderRelPositionalEncoding(config)
        self.layers = nn.ModuleList(ParakeetEncoderBlock(config, number) for number in range(layers))

    def set_statistics(self, frames: torch.Tensor) -> None:
        """Standardise with the mean and standard deviation of `frames`, `[frames, width]`."""
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0).clamp_min(1e-3))

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[batch, frames, width]` and counts -> `[batch, ceil(frames / stack), size]` and counts."""
        frames = F.pad((frames - self.mean) / self.std, (0, 0, 0, -frames.shape[1] % self.stack))
        inside = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        hidden = self.linear((frames * inside[..., None]).unflatten(1, (-1, self.stack)).flatten(2))
        lengths = -(-lengths // self.stack)
        inside = torch.arange(hidden.shape[1], device=frames.device) < lengths[:, None]
        mask = (inside[:, None] & inside[:, :, None])[:, None]
        positions = self.positions(hidden)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=positions)
        return hidden, lengths
