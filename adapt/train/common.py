"""Shared by several trainings: paired audio, batches of similar length, the development loss, the best checkpoint."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adapt.errors import TrainingError
from adapt.model.packing import target_logits
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.ranks import launched

Lists = Callable[[str, random.Random], Sequence[str]]  # draws the names in the prompt of a sentence
EXAMPLES = 12  # recordings whose audio embeddings are saved with a new model, as initial values of soft prompts


@dataclass(frozen=True)
class PairedAudio:
    """Utterances with transcripts. A field that a training does not use is empty.

    targets: token ids of each transcript. embeddings: audio embeddings `[slots, hidden]` of each utterance. samples:
    mono audio at 16 kHz, if the audio embeddings change in training. letters: each transcript as indices into
    the alphabet of the encoder's CTC head.
    """

    targets: Sequence[Sequence[int]]
    embeddings: Sequence[torch.Tensor] = ()
    samples: Sequence[np.ndarray] = ()
    letters: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training.

    log: rows `{"step", "loss"}` of the training and `{"step", "dev_loss"}` of the evaluations, the latter with
    `guard_loss` if there is a guard set. best_step: the step whose weights were kept; 0: before any training.
    """

    log: list[dict]
    best_step: int


def by_length(rows: Sequence[Sequence]) -> list[int]:
    """Indices of the rows, the shortest row first."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i]))


def draw(rng: random.Random, ordered: Sequence[int], count: int, place: float) -> list[int]:
    """Draw `count` of the indices near `place` (0 to 1) in `ordered`, with replacement. They have similar lengths.

    ordered: indices by length, as `by_length` returns them.
    """
    window = min(len(ordered), max(count, len(ordered) // 12))
    start = round(place * (len(ordered) - window))
    return rng.choices(ordered[start : start + window], k=count)


def labelled_batches(
    speech_llm: SpeechLLM,
    embeddings: Sequence[torch.Tensor | None],
    targets: Sequence[Sequence[int]],
    batch_size: int = 50,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """All rows in batches of similar length: their indices, and logits and labels as `token_loss` takes them.

    embeddings: those in the slot of each row, `[slots, hidden]`; None leaves the prompt out.
    """
    order = by_length(targets)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, *target_logits(speech_llm, [embeddings[i] for i in rows], [targets[i] for i in rows])


@torch.no_grad()
def mean_loss(
    speech_llm: SpeechLLM, embeddings: Sequence[torch.Tensor | None], targets: Sequence[Sequence[int]]
) -> float:
    """Mean loss per target token over all rows, in nats; embeddings as in `labelled_batches`."""
    total = tokens = 0.0
    for _, logits, labels in labelled_batches(speech_llm, embeddings, targets):
        total, tokens = total + token_loss(logits, labels).item() * len(labels), tokens + len(labels)
    return total / tokens


def check_share(batch_size: int, key: str) -> None:
    """Raises TrainingError if some of the processes would have no row of a batch. key: of the size in the recipe."""
    if batch_size < launched().count:
        problem = f"{key}: {batch_size}, but {launched().count} processes share a batch"
        raise TrainingError(f"{problem}; give a larger one, or launch fewer")


def mean_over_tokens(logits: torch.Tensor, labels: torch.Tensor, tokens: int) -> torch.Tensor:
    """The loss of this process's share of a batch: over all processes, the mean is the batch's mean loss per token.

    tokens: target tokens of the whole batch.
    """
    summed = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    return launched().count * summed / tokens


def best_row(log: Sequence[dict], guard_tolerance: float = float("inf")) -> dict:
    """The evaluation with the lowest development loss.

    Evaluations whose guard loss is above the first one by more than `guard_tolerance` (relative) are left out.

    >>> log = [{"step": 0, "dev_loss": 3.0, "guard_loss": 1.0}, {"step": 5, "dev_loss": 2.0, "guard_loss": 1.2}]
    >>> best_row(log)["step"], best_row(log, guard_tolerance=0.1)["step"]
    (5, 0)
    """
    rows = [row for row in log if "dev_loss" in row]
    guard = rows[0].get("guard_loss")
    if guard is not None:
        rows = [row for row in rows if row["guard_loss"] <= guard * (1 + guard_tolerance)]
    return min(rows, key=lambda row: row["dev_loss"])


def has_stalled(log: Sequence[dict], patience: int) -> bool:
    """Whether the last `patience` evaluations have not lowered the development loss."""
    rows = [row for row in log if "dev_loss" in row]
    best = min(range(len(rows)), key=lambda i: rows[i]["dev_loss"])
    return len(rows) - 1 - best >= patience
