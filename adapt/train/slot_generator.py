"""Train the network that generates audio embeddings, on recordings with transcripts.

It needs no aligner. As in Glow-TTS (2005.11129), each step first aligns characters and slots by dynamic programming
over what the network predicts so far, and then learns from that alignment.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from adapt.model.slot_generator import SlotGenerator
from adapt.ranks import launched
from adapt.train.common import TrainingResult, best_row, by_length, draw
from adapt.train.fit import fit

HELD_OUT, MOST = 8, 256  # each eighth recording is kept out of the training, and no more than these
STEPS, BATCH, RATE, EVAL_EVERY = 400, 16, 2e-3, 50
DIAGONAL = 16.0  # weight, at step 0, of an alignment in which all characters have the same number of slots


def learn_slot_generator(
    texts: Sequence[str],
    embeddings: Sequence[torch.Tensor],
    *,
    folder: Path,
    out: Path,
    seed: int,
    steps: int = STEPS,
) -> TrainingResult:
    """Train a SlotGenerator on transcripts and their audio embeddings `[slots, hidden]`, and write it to `out`.

    Of the recordings, at least two, each HELD_OUT-th is kept out, MOST at most, and the checkpoint with the lowest loss
    on those is kept. In the log, `dev_loss` is their mean squared error in deviations, and `cosine` the mean cosine of
    predicted and real embeddings, both without residuals and with the durations of the recording. folder: for
    checkpoints.
    """
    torch.manual_seed(seed)
    rows = [row.float() for row in embeddings]
    held_out = range(0, len(rows), HELD_OUT)[:MOST]
    train = [i for i in range(len(rows)) if i not in held_out]
    real, unheard = torch.cat([rows[i] for i in train]), torch.cat([rows[i] for i in held_out])
    mean, deviation = real.mean(0), real.std(0, correction=0).clamp_min(1e-6)
    alphabet = "".join(sorted({" ", *"".join(texts[i] for i in train)}))
    model = SlotGenerator(alphabet, mean, deviation, torch.zeros_like(unheard)).to(real.device)
    standard = [(row - mean) / deviation for row in rows]
    ordered, ranks = [train[i] for i in by_length([rows[i] for i in train])], launched()

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        return {"rows": draw(rng, ordered, BATCH, rng.random()), "diagonal": DIAGONAL * max(0.0, 1 - 4 * step / steps)}

    def loss_of(model: SlotGenerator, batch: dict) -> torch.Tensor:
        targets = [standard[i] for i in batch["rows"]]
        states = model.states([texts[i] for i in batch["rows"]])
        prototypes = [model.prototype(row) for row in states]
        counts = [_counts(*pair, batch["diagonal"]) for pair in zip(prototypes, targets, strict=True)]
        repeated = [row.repeat_interleave(count, 0) for row, count in zip(prototypes, counts, strict=True)]
        predicted, repeated, target = map(torch.cat, (model.embeddings(states, counts), repeated, targets))
        of_counts = F.poisson_nll_loss(model.log_count(torch.cat(states))[:, 0], torch.cat(counts).float())
        of_direction = 1 - F.cosine_similarity(predicted, target).mean()
        return F.mse_loss(predicted, target) + F.mse_loss(repeated, target) + of_direction + of_counts

    @torch.no_grad()
    def evaluate(step: int, log: list[dict]) -> dict:
        model.eval()
        states, targets = model.states([texts[i] for i in held_out]), [standard[i] for i in held_out]
        counts = [_counts(model.prototype(row), target) for row, target in zip(states, targets, strict=True)]
        predicted = torch.cat(model.embeddings(states, counts))
        model.residuals = torch.cat(targets) - predicted
        model.residual_ids = torch.cat(
            [model.ids(texts[i]).repeat_interleave(count) for i, count in zip(held_out, counts, strict=True)]
        )
        similar = F.cosine_similarity(predicted * deviation + mean, unheard).mean()
        row = {"step": step, "dev_loss": model.residuals.square().mean().item(), "cosine": similar.item()}
        if best_row([*log, row]) is row and ranks.is_first:
            model.save(folder / "best.safetensors")
        model.train()
        return row

    log = fit(
        model,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": list(model.parameters()), "lr": RATE}],
        warmup=min(30, steps // 5),
        folder=folder,
        save_every=min(EVAL_EVERY, steps),
        evaluate=evaluate,
        label="generator",
        shared=True,  # every process trains on the whole batch: the network is small
        seed=seed,
        weight_decay=0.01,
    )
    if ranks.is_first:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "best.safetensors", out)
    return TrainingResult(log, best_row(log)["step"])


def _counts(prototypes: torch.Tensor, target: torch.Tensor, diagonal: float = 0.0) -> torch.Tensor:
    """The number of slots of each character, `[characters]`, by the alignment with the least squared distance.

    prototypes: predicted for each character, `[characters, hidden]`. target: `[slots, hidden]`. diagonal: weight of
    the squared distance from the diagonal. The first slot belongs to the first character and the last slot to the last
    one; between them the alignment never goes back, and may leave characters out.

    >>> _counts(torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([[4.0], [1.0], [8.0], [9.0]])).tolist()
    [2, 0, 2]
    """
    scores = -torch.cdist(target, prototypes.detach()).square().cpu() / target.shape[1]
    slots, characters = scores.shape
    scores -= diagonal * (torch.linspace(0, 1, slots)[:, None] - torch.linspace(0, 1, characters)).square()
    best, came_from = torch.full((characters,), -torch.inf), []
    best[0] = scores[0, 0]
    for score in scores[1:]:
        best, before = best.cummax(0)
        best = best + score
        came_from.append(before.tolist())
    counts, place = torch.zeros(characters, dtype=torch.long), characters - 1
    counts[place] += 1
    for before in reversed(came_from):
        place = before[place]
        counts[place] += 1
    return counts.to(target.device)
