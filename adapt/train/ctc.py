"""CTC over characters: the loss, and greedy hypotheses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F

from adapt.model.encoders import BLANK, CtcEncoder, greedy_paths


def ctc_ids(text: str, alphabet: str) -> list[int]:
    """Indices of the characters of `text` in `alphabet`; characters that it lacks are left out."""
    return [index for character in text if (index := alphabet.find(character)) >= 0]


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """The rows as one tensor `[rows, longest]`, padded with `value`."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def ctc_loss(logits: torch.Tensor, lengths: torch.Tensor, targets: Sequence[Sequence[int]], blank: int) -> torch.Tensor:
    """CTC loss of `logits [batch, frames, symbols]`: nats per target symbol, mean over the batch (Graves 2006).

    lengths: frames of each row. targets: symbols of each row. A row with too few frames for its target has loss 0.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    counts = torch.tensor([len(row) for row in targets])
    return F.ctc_loss(
        log_probs, padded(targets, blank).to(logits.device), lengths, counts, blank=blank, zero_infinity=True
    )


def greedy(path: str) -> str:
    """The text of a CTC path (one symbol a frame): repeats merged, blanks dropped.

    >>> greedy("aa_ab_  ")
    'aab'
    """
    merged = "".join(symbol for i, symbol in enumerate(path) if i == 0 or symbol != path[i - 1])
    return " ".join(merged.replace(BLANK, "").split())


@torch.no_grad()
def ctc_texts(encoder: CtcEncoder, batches: Iterable[tuple]) -> tuple[list[str], list[str]]:
    """The transcripts and the greedy CTC hypotheses of batches of recordings, frames and counts (`frames_in_order`)."""
    references, hypotheses = [], []
    for items, frames, counts in batches:
        hypotheses += map(greedy, greedy_paths(encoder, frames, counts))
        references += [item.text for item in items]
    return references, hypotheses
