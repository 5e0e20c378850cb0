"""The stages that build a speech LLM from parts: encoder (CTC), decoder (language model), read, align."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from adapt.model.features import pad_features


@dataclass
class Shards:
    """Log-mel shards of a folder: pairs of `NNNN.npy` and `NNNN.jsonl` (text, voice, frames)."""

    folder: Path
    items: list[tuple[int, int, int, str, str]] = field(
        default_factory=list
    )  # frames, shard, offset, text, voice
    _features: dict[int, np.ndarray] = field(default_factory=dict)

    def grow(self, shards: int, patience: float = 600.0) -> Shards:
        """Read the indices of the first `shards` shards, waiting for those that are still being made."""
        while len(self._features) < shards:
            number = len(self._features)
            index = self.folder / f"{number:04d}.jsonl"
            waited = 0.0
            while not index.exists():
                if waited > patience:
                    raise TimeoutError(f"{index}: not there after {patience:.0f} s")
                time.sleep(1.0)
                waited += 1.0
            offset = 0
            for line in index.read_text(encoding="utf-8").splitlines():
                item = json.loads(line)
                self.items.append((item["frames"], number, offset, item["text"], item["voice"]))
                offset += item["frames"]
            self._features[number] = np.load(index.with_suffix(".npy"), mmap_mode="r")
            self.items.sort()
        return self

    def features(self, item: tuple[int, int, int, str, str]) -> torch.Tensor:
        frames, shard, offset, _, _ = item
        return torch.from_numpy(self._features[shard][offset : offset + frames].astype(np.float32))


def augment(features: torch.Tensor, rng: random.Random, masks: bool) -> torch.Tensor:
    """Vocal-tract warp (0.85..1.18 along mel bins), time stretch (0.85..1.2) and, with `masks`, SpecAugment."""
    frames, bins = features.shape
    if rng.random() < 0.7:
        warp, stretch = rng.uniform(0.85, 1.18), rng.uniform(0.85, 1.2)
        grid_y = torch.linspace(-1, 1, max(8, round(frames * stretch)))
        # Mel bins are near linear below 1 kHz and logarithmic above: a shift along them is a formant shift.
        grid_x = ((torch.arange(bins) * warp + (1 - warp) * 4) / (bins - 1) * 2 - 1).clamp(-1, 1)
        grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)
        features = F.grid_sample(
            features[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
        )[0, 0]
    if masks:
        features, frames = features.clone(), len(features)
        for _ in range(2):
            width = rng.randint(0, 12)
            start = rng.randint(0, bins - width)
            features[:, start : start + width] = 0
        for _ in range(max(1, frames // 100)):
            width = rng.randint(0, 14)
            start = rng.randint(0, max(1, frames - width))
            features[start : start + width] = 0
    return features


def ctc_ids(text: str, alphabet: str) -> list[int]:
    return [alphabet.index(character) for character in text]


def encoder_batches(
    speech: Shards, human: Shards, alphabet: str, *, steps: int, batch_size: int, shards: int, seed: int = 1
) -> Callable[[int], dict]:
    """Batches of like length; the pool begins with the short utterances of the first shards and grows.

    Character targets leave the blank plateau soonest on short utterances. A tenth of the batches are human speech.
    """
    human.grow(1)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        progress = step / steps
        speech.grow(min(shards, 6 + int(1.6 * progress * shards)))
        source = human if step > 300 and rng.random() < 0.08 else speech
        reach = len(source.items) if step > 400 else int(len(source.items) * (0.15 + 0.85 * step / 400))
        start = rng.randrange(max(1, reach - batch_size))
        items = source.items[start : start + batch_size]
        features = [augment(source.features(item), rng, masks=step > 1000) for item in items]
        inputs, mask = pad_features(features)
        pad = len(alphabet)
        labels = [torch.tensor(ctc_ids(item[3], alphabet)) for item in items]
        labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=pad)
        return {"input_features": inputs, "attention_mask": mask, "labels": labels}

    return batch_of


def fixed_batches(
    items: Sequence, features: Callable, size: int = 50
) -> Iterator[tuple[list, torch.Tensor, torch.Tensor]]:
    for start in range(0, len(items), size):
        chosen = list(items[start : start + size])
        yield chosen, *pad_features([features(item) for item in chosen])


def ctc_greedy(logits: torch.Tensor, lengths: torch.Tensor, alphabet: str) -> list[str]:
    """Best path of each row of `[batch, frames, symbols]` within its length; blank is the last symbol."""
    texts = []
    for row, length in zip(logits.argmax(-1), lengths.tolist(), strict=True):
        symbols = torch.unique_consecutive(row[:length]).tolist()
        texts.append(" ".join("".join(alphabet[s] for s in symbols if s < len(alphabet)).split()))
    return texts


def text_batches(
    targets: Sequence[Sequence[int]], *, batch_size: int, seed: int = 1
) -> Callable[[int], list[int]]:
    """Indices of targets of like length, a batch a step; every target once before any twice."""
    order = sorted(range(len(targets)), key=lambda i: len(targets[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def batch_of(step: int) -> list[int]:
        epoch, place = divmod(step, len(batches))
        shuffled = list(range(len(batches)))
        random.Random(seed * 7919 + epoch).shuffle(shuffled)
        return batches[shuffled[place]]

    return batch_of
