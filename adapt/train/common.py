"""What the training stages share: replayed audio, batches of like length, development loss, the best checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from adapt.model.speech_llm import IGNORED, SpeechLLM, token_loss


@dataclass(frozen=True)
class Replay:
    """Paired audio of the source domain: audio embeddings `[slots, hidden]` and target ids of each utterance."""

    slots: Sequence[torch.Tensor]
    targets: Sequence[Sequence[int]]


@dataclass(frozen=True)
class TrainingResult:
    """What a stage came to. log: a row a report, `{"step", "loss"}` or `{"step", "dev_loss", "guard_loss"}`.

    best_step: the step whose weights were kept; 0 is the untrained start.
    """

    log: list[dict]
    best_step: int


def by_length(rows: Sequence[Sequence]) -> list[int]:
    """Places of the rows, the shortest first."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i]))


def draw(rng: random.Random, ordered: Sequence[int], count: int, place: float) -> list[int]:
    """`count` of the rows that stand near `place` (0 to 1) in `ordered`: rows of like length need little padding."""
    reach = min(len(ordered), max(count, len(ordered) // 12))
    start = round(place * (len(ordered) - reach))
    return rng.choices(ordered[start : start + reach], k=count)


def labelled_batches(
    speech_llm: SpeechLLM,
    slot_rows: Sequence[torch.Tensor | None],
    targets: Sequence[Sequence[int]],
    batch_size: int = 50,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """All rows in batches of like length: their places, and logits and labels as `token_loss` takes them."""
    order = by_length(targets)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = speech_llm.training_batch([slot_rows[i] for i in rows], [targets[i] for i in rows])
        yield rows, *speech_llm.labelled(*batch)


@torch.no_grad()
def mean_loss(
    speech_llm: SpeechLLM, slot_rows: Sequence[torch.Tensor | None], targets: Sequence[Sequence[int]]
) -> float:
    """Mean loss per target token over all rows, in nats."""
    total = tokens = 0.0
    for _, logits, labels in labelled_batches(speech_llm, slot_rows, targets):
        count = int((labels != IGNORED).sum())
        total, tokens = total + token_loss(logits, labels).item() * count, tokens + count
    return total / tokens


def best_row(log: Sequence[dict], guard_tolerance: float = float("inf")) -> dict:
    """The evaluation with the lowest development loss of those whose guard loss rose at most by the tolerance.

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
    rows = [row for row in log if "dev_loss" in row]
    best = min(range(len(rows)), key=lambda i: rows[i]["dev_loss"])
    return len(rows) - 1 - best >= patience
