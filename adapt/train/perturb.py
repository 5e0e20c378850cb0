"""Perturbation of speech on the device of the training, different each time that an utterance is used."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from adapt.model.encoders import CtcEncoder
from adapt.model.features import SAMPLE_RATE

HALF_SECOND = SAMPLE_RATE // 2  # lengths are multiples of it: planning a Fourier transform for a new length is slow
ROOM = SAMPLE_RATE * 3 // 10  # samples of the longest room impulse response
MARGIN = SAMPLE_RATE * 8 // 10  # mean number of samples of silence around the speech, in batches with silence


def _uniform(like: torch.Tensor, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """One uniform random number for each row, `[batch, 1]`."""
    return torch.empty(len(like), 1, device=like.device).uniform_(low, high, generator=generator)


def _with_margins(
    samples: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """In half of the batches, add up to 2 MARGIN of white noise around each row, as quiet as its quietest part.

    All rows of a batch get the same amount, so that padding stays small; the part before the speech is drawn for each
    row.
    """
    lengths = lengths.to(samples.device)[:, None]
    first_row = samples[:1]
    silence = MARGIN * (_uniform(first_row, 0, 1, generator) + _uniform(first_row, 0, 1, generator))
    silence = (silence * (_uniform(first_row, 0, 1, generator) < 0.5)).long()
    before = (silence * _uniform(samples, 0, 1, generator)).long()
    longer = lengths + silence
    size = -(-int(longer.max()) // HALF_SECOND) * HALF_SECOND
    time = torch.arange(size, device=samples.device)[None]
    place = time - before
    spoken = (place >= 0) & (place < lengths)
    tone = torch.randn(spoken.shape, device=samples.device, generator=generator) * _floor(samples, lengths)
    speech = samples.gather(1, place.clamp(0, samples.shape[1] - 1))
    return torch.where(spoken, speech, tone * (time < longer)), longer[:, 0]


def _floor(samples: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Root mean square of the quietest 20 ms of each row, `[batch, 1]`."""
    size = SAMPLE_RATE // 50
    power = F.pad(samples, (0, -samples.shape[1] % size)).unflatten(1, (-1, size)).square().mean(-1)
    complete = torch.arange(1, power.shape[1] + 1, device=samples.device)[None] * size <= lengths
    return power.masked_fill(~complete, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0).sqrt()


def perturb_audio(
    samples: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add silence around the speech, room reverberation, spectral tilt and coloured noise.

    Silence: half of the batches. Reverberation: a fifth of the rows. Tilt: half of the rows. Noise: half of the rows,
    at 10 to 40 dB SNR.

    samples: float32 `[batch, length]`, zero beyond `lengths`. Returns samples and lengths of the same form.
    """
    samples, lengths = _with_margins(samples, lengths, generator)
    batch, length = samples.shape

    def chance(share: float) -> torch.Tensor:
        return _uniform(samples, 0, 1, generator) < share

    def randn(columns: int) -> torch.Tensor:
        return torch.randn(batch, columns, device=samples.device, generator=generator)

    time = torch.arange(ROOM, device=samples.device)[None]
    decay = SAMPLE_RATE * _uniform(samples, 0.05, 0.3, generator)
    room = randn(ROOM) * torch.exp(-6.9 * time / decay) * (time < decay)
    room *= _uniform(samples, 0.1, 0.5, generator) / room.square().sum(1, keepdim=True).sqrt()
    room[:, 0] = 1.0
    size, out, rows = length + ROOM, samples.clone(), chance(0.2)[:, 0]
    if rows.any():
        spectrum = torch.fft.rfft(samples[rows], size) * torch.fft.rfft(room[rows], size)
        out[rows] = torch.fft.irfft(spectrum, size)[:, :length]

    tilt = _uniform(samples, -0.6, 0.6, generator) * chance(0.5)
    out = torch.cat([out[:, :1], out[:, 1:] - tilt * out[:, :-1]], dim=1)

    spectrum = torch.fft.rfft(randn(length))
    frequency = torch.arange(1, spectrum.shape[1] + 1, device=samples.device)[None] / spectrum.shape[1]
    slope = _uniform(samples, 0, 1, generator) * chance(0.7)
    noise = torch.fft.irfft(spectrum * frequency**-slope, length)
    inside = torch.arange(length, device=samples.device)[None] < lengths[:, None]
    power = (out * inside).square().sum(1, keepdim=True) / inside.sum(1, keepdim=True)
    ratio = 10 ** (-_uniform(samples, 10, 40, generator) / 20) * chance(0.5)
    level = ratio * (power / noise.square().mean(1, keepdim=True)).sqrt()
    return (out + level * noise) * inside, lengths


def perturb_features(
    features: torch.Tensor, mask: torch.Tensor, generator: torch.Generator, share: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply vocal-tract warp and time stretch to a `share` of the rows, then SpecAugment (1904.08779) to all rows.

    Takes `features [batch, frames, bins]` and their boolean `mask [batch, frames]`, and returns the same with other
    lengths. The warp scales the mel bins by 0.88 to 1.14 (they are nearly logarithmic, so that this shifts the
    formants), and the stretch scales the time by 0.87 to 1.18. SpecAugment masks up to 10 bins, and up to 8 frames in
    every 100.
    """
    _, frames, bins = features.shape
    device, lengths = features.device, mask.sum(1, keepdim=True)
    warped = (_uniform(features, 0, 1, generator) < share).float()
    warp = 1 + warped * (_uniform(features, 0.88, 1.14, generator) - 1)
    stretch = 1 + warped * (_uniform(features, 0.87, 1.18, generator) - 1)
    stretched = (lengths * stretch).round().long().clamp_min(1)
    time = torch.arange(int(stretched.max()), device=device)[None]
    from_time = time * (lengths - 1) / (stretched - 1).clamp_min(1)
    from_bin = torch.arange(bins, device=device)[None] * warp + (1 - warp) * 4
    grid = torch.stack(
        [
            (from_bin / (bins - 1) * 2 - 1).clamp(-1, 1)[:, None, :].expand(-1, time.shape[1], -1),
            (from_time / max(1, frames - 1) * 2 - 1)[:, :, None].expand(-1, -1, bins),
        ],
        dim=-1,
    )
    out = torch.nn.functional.grid_sample(features[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
    mask = time < stretched
    keep = mask[..., None]

    def span(size: int, reach: torch.Tensor, longest: int) -> torch.Tensor:
        width = _uniform(features, 0, longest + 1, generator).floor()
        start = (_uniform(features, 0, 1, generator) * (reach - width).clamp_min(0)).floor()
        place = torch.arange(size, device=device)[None]
        return (place >= start) & (place < start + width)

    keep = keep & ~span(bins, torch.full_like(lengths, bins), 10)[:, None, :]
    for number in range(4):
        drop = span(out.shape[1], stretched, 8) & (stretched >= 100 * number)
        keep = keep & ~drop[..., None]
    return out * keep, mask


def perturbed(
    encoder: CtcEncoder, samples: torch.Tensor, lengths: torch.Tensor, *, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The perturbed input of the encoder and its mask, as `encoder.inputs` returns them; a function of seed and device.

    Warp, stretch and masks apply only to log-mel features. samples, lengths: as in `perturb_audio`.
    """
    generator = torch.Generator(samples.device).manual_seed(seed)
    with torch.autocast(samples.device.type, enabled=False):
        inputs, mask = encoder.inputs(*perturb_audio(samples, lengths, generator))
        return perturb_features(inputs, mask, generator) if encoder.family.log_mel else (inputs, mask)
