"""A network that generates the audio embeddings of a sentence from its characters.

It predicts how many slots each character has, and then the embedding in each slot, all at once. What it learns is a
mean over voices and noise, which is easier to read than real audio. Residuals of real audio are therefore added to each
character, drawn among those of the same character: what the network did not predict of recordings that were kept out
of its training.
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence

WIDTH = 192


class _Convolution(torch.nn.Module):
    """A residual convolution over rows `[batch, length, WIDTH]`; `keep`, `[batch, length, 1]`, is 0 for padding."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = torch.nn.LayerNorm(WIDTH), torch.nn.Dropout(0.2)
        self.convolution = torch.nn.Conv1d(WIDTH, WIDTH, 5, padding=2)

    def forward(self, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        around = self.convolution((self.norm(rows) * keep).transpose(1, 2)).transpose(1, 2)
        return rows + self.dropout(torch.nn.functional.gelu(around))


class SlotGenerator(torch.nn.Module):
    """The network and its residuals.

    alphabet: the characters that it knows; of another one it knows only the neighbours. mean, deviation: of real audio
    embeddings, `[hidden]`. residuals: of the recordings that were kept out of the training, one after another,
    `[slots, hidden]`, in deviations. residual_ids: the character of each, as `ids` numbers them.
    """

    def __init__(self, alphabet: str, mean: torch.Tensor, deviation: torch.Tensor, residuals: torch.Tensor):
        super().__init__()
        self.alphabet = alphabet
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.register_buffer("residuals", residuals)
        self.register_buffer("residual_ids", torch.zeros(len(residuals), dtype=torch.long, device=mean.device))
        self.characters = torch.nn.Embedding(1 + len(alphabet), WIDTH, padding_idx=0)
        self.before = torch.nn.ModuleList(_Convolution() for _ in range(3))
        self.after = torch.nn.ModuleList(_Convolution() for _ in range(2))
        self.place = torch.nn.Linear(2, WIDTH)
        self.log_count = torch.nn.Linear(WIDTH, 1)  # of the slots of a character
        self.prototype = torch.nn.Linear(WIDTH, len(mean))  # of the embeddings of a character, for the alignment
        self.embedding = torch.nn.Linear(WIDTH, len(mean))

    def ids(self, text: str) -> torch.Tensor:
        """The characters of a text `[characters]`, 0 for one unknown; a space on both sides stands for silence."""
        return torch.tensor([1 + self.alphabet.find(c) for c in f" {text} "], device=self.mean.device)

    def states(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """States `[characters, WIDTH]` of each text, for the characters that `ids` has."""
        return _convolved(self.before, [self.characters(self.ids(text)) for text in texts])

    def embeddings(self, states: Sequence[torch.Tensor], counts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Embeddings `[slots, hidden]` of each text, in deviations from the mean, without residuals.

        counts: slots of each character, `[characters]`.
        """
        rows = []
        for row, count in zip(states, counts, strict=True):
            of = count.repeat_interleave(count)
            nth = torch.arange(len(of), device=of.device) - (count.cumsum(0) - count).repeat_interleave(count)
            rows.append(row.repeat_interleave(count, 0) + self.place(torch.stack([(nth + 0.5) / of, 1 / of], 1)))
        return [self.embedding(row) for row in _convolved(self.after, rows)]

    @torch.no_grad()
    def generate(self, text: str, rng: random.Random) -> torch.Tensor:
        """Audio embeddings `[slots, hidden]` for a text. Residuals are drawn, and whether a count is rounded up."""
        with torch.autocast(self.mean.device.type, enabled=False):
            states = self.states([text])
            counts = [int(count + rng.random()) for count in self.log_count(states[0])[:, 0].exp().tolist()]
            counts[0] = max(1, counts[0])
            (row,) = self.embeddings(states, [torch.tensor(counts, device=self.mean.device)])
        drawn = torch.tensor(self._draw(text, counts, rng), device=row.device)
        residuals = self.residuals[drawn].masked_fill(drawn[:, None] < 0, 0.0)
        return (row + residuals) * self.deviation + self.mean

    def _draw(self, text: str, counts: Sequence[int], rng: random.Random) -> list[int]:
        """The residual of each slot: those of one stretch of its character, evenly; -1 for one that never occurs."""
        drawn = []
        for character, count in zip(self.ids(text).tolist(), counts, strict=True):
            first, length = rng.choice(self._occurrences.get(character, [(-1, 1)]))
            drawn += [first + nth * length // count for nth in range(count)]
        return drawn

    @functools.cached_property
    def _occurrences(self) -> dict[int, list[tuple[int, int]]]:
        """First residual and number of residuals of each stretch with the same character, by character.

        The residuals may no longer change.
        """
        found, first = defaultdict(list), 0
        ids, lengths = self.residual_ids.unique_consecutive(return_counts=True)
        for character, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            found[character].append((first, length))
            first += length
        return found

    def save(self, path: Path) -> None:
        """Write the network and its residuals to a safetensors file."""
        save_file(self.state_dict(), path, metadata={"alphabet": self.alphabet})


def _convolved(layers: torch.nn.ModuleList, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Rows `[length, WIDTH]` after the layers."""
    padded = pad_sequence(rows, batch_first=True)
    keep = pad_sequence([torch.ones_like(row[:, :1]) for row in rows], batch_first=True)
    for layer in layers:
        padded = layer(padded, keep)
    return [row[: len(real)] for row, real in zip(padded, rows, strict=True)]


def load_slot_generator(path: Path, device: torch.device) -> SlotGenerator:
    """The network that `SlotGenerator.save` wrote to a file, ready to generate."""
    with safe_open(path, "pt", device=str(device)) as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        alphabet = file.metadata()["alphabet"]
    buffers = (weights[name] for name in ("mean", "deviation", "residuals"))
    generator = SlotGenerator(alphabet, *buffers).to(device)
    generator.load_state_dict(weights)
    return generator.eval()
