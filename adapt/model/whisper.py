"""Whisper's encoder on windows that are as long as the recordings.

Whisper is trained on windows of 30 s (`window: full`). Its positions are fixed sinusoids, so the encoder also works on
a shorter window, which costs as much less as it is shorter: `window: recording`, the recording and MARGIN.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from adapt.model.features import SAMPLE_RATE, rows

# Filterbank frames (10 ms each) of silence after the recording in a short window. What the encoder makes of them is
# kept: Whisper puts part of what it heard there. Without it, its own decoder has 39 % of the next tokens right, not 69.
MARGIN = 30


class WindowedWhisper(WhisperEncoder):
    """Whisper's encoder, which also takes windows that are shorter than its 30 s."""

    def windowed(self, features: torch.Tensor, windows: torch.Tensor, above: int = 0) -> torch.Tensor:
        """Frames `[batch, ceil(frames / 2), hidden]` of features `[batch, bins, frames]`.

        windows: the features of each row, `[batch]`. What follows them is as if it were not there, so that a row does
        not depend on its batch. above: the number of last layers that are left out, with the final normalisation.
        """
        inside = (torch.arange(features.shape[2], device=features.device) < windows[:, None])[:, None]
        hidden = F.gelu(self.conv1(features * inside)) * inside
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        hidden = self._through(self.layers[: len(self.layers) - above], hidden, -(-windows // 2))
        return hidden if above else self.layer_norm(hidden)

    def last_layers(self, frames: torch.Tensor, lengths: torch.Tensor, above: int) -> torch.Tensor:
        """The frames of the whole encoder from those below its last layers, `above` in number; shapes as there.

        lengths: frames of each row, `[batch]`; the layers do not see what follows them.
        """
        return self.layer_norm(self._through(self.layers[len(self.layers) - above :], frames, lengths))

    @staticmethod
    def _through(layers, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Frames after these layers, which attend to the first `lengths` frames of each row."""
        outside = torch.arange(hidden.shape[1], device=hidden.device) >= lengths[:, None]
        mask = torch.zeros(outside.shape, device=hidden.device, dtype=hidden.dtype)
        mask = mask.masked_fill(outside, torch.finfo(hidden.dtype).min)[:, None, None]
        for layer in layers:
            hidden = layer(hidden, mask.to(hidden.dtype))
        return hidden


def whisper_log_mel(
    config: PreTrainedConfig, samples: torch.Tensor, lengths: torch.Tensor, size: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The features of transformers' Whisper `[batch, bins, frames]`, and the mask of the recordings in them.

    size: the number of frames; None: those of the windows that `config` asks for.
    """
    most = 2 * config.max_source_positions  # in filterbank frames
    if size is None and getattr(config, "window", "full") == "recording":
        size = min(most, -(-int(lengths.max()) // (SAMPLE_RATE // 100)) + MARGIN)
    extractor = WhisperFeatureExtractor(config.num_mel_bins, chunk_length=most // 100)
    inputs = extractor(
        rows(samples, lengths),
        sampling_rate=SAMPLE_RATE,
        max_length=(size or most) * SAMPLE_RATE // 100,
        return_tensors="pt",
        return_attention_mask=True,
    )
    return inputs.input_features.to(samples.device), inputs.attention_mask.bool().to(samples.device)


def whisper_frames(
    encoder: WindowedWhisper, inputs: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `[batch, frames, hidden]` below the last `tuned_layers` layers, and their counts `[batch]`.

    In windows of the recording's length, the counts include MARGIN.
    """
    recorded, above = mask.sum(-1), getattr(encoder.config, "tuned_layers", 0)
    short = getattr(encoder.config, "window", "full") == "recording"
    kept = (recorded + MARGIN).clamp_max(2 * encoder.config.max_source_positions) if short else recorded
    lengths = encoder._get_feat_extract_output_lengths(kept)
    if short:
        frames = encoder.windowed(inputs, kept, above)
    elif above:
        frames = encoder.windowed(inputs, torch.full_like(recorded, inputs.shape[2]), above)
    else:
        frames = encoder(inputs).last_hidden_state
    return frames[:, : int(lengths.max())], lengths


def whisper_last_layers(encoder: WindowedWhisper, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The frames above the last `tuned_layers` layers, of those below them."""
    above = getattr(encoder.config, "tuned_layers", 0)
    return encoder.last_layers(frames, lengths, above) if above else frames
