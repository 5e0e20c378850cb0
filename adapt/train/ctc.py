"""CTC over characters: the loss, greedy hypotheses and their WER."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein

from adapt.model.encoders import CtcEncoder
from adapt.model.speech_llm import BLANK, paths
from adapt.train.speech import Speech


def ctc_ids(text: str, alphabet: str) -> list[int]:
    """Places of the characters of `text` in `alphabet`; those that it does not hold are left out."""
    return [place for character in text if (place := alphabet.find(character)) >= 0]


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def ctc_loss(logits: torch.Tensor, lengths: torch.Tensor, targets: Sequence[Sequence[int]], blank: int) -> torch.Tensor:
    """CTC of `logits [batch, frames, symbols]`: nats per target symbol, mean over the batch (Graves 2006).

    What is too long for its frames counts nothing.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    counts = torch.tensor([len(row) for row in targets])
    return F.ctc_loss(
        log_probs, padded(targets, blank).to(logits.device), lengths, counts, blank=blank, zero_infinity=True
    )


def greedy(path: str) -> str:
    """The text of a path: repeats merged, blanks dropped.

    >>> greedy("aa_ab_  ")
    'aab'
    """
    merged = "".join(symbol for i, symbol in enumerate(path) if i == 0 or symbol != path[i - 1])
    return " ".join(merged.replace(BLANK, "").split())


@torch.no_grad()
def ctc_texts(encoder: CtcEncoder, speech: Speech) -> tuple[list[str], list[str]]:
    """References and greedy CTC hypotheses of every recording."""
    references, hypotheses = [], []
    for items, samples, lengths in speech.in_order():
        frames, counts = encoder.frames(*encoder.inputs(samples.to(encoder.device), lengths.to(encoder.device)))
        hypotheses += map(greedy, paths(encoder, frames, counts))
        references += [item.text for item in items]
    return references, hypotheses


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """(S + D + I) / N over all utterances."""
    errors = words = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        errors += Levenshtein.distance(reference.split(), hypothesis.split())
        words += len(reference.split())
    return errors / words
