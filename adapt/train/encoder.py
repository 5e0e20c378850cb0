"""Train an audio encoder by CTC over characters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import jiwer
import torch

from adapt.model.encoders import CtcEncoder
from adapt.ranks import launched
from adapt.recipe.base import Encoder
from adapt.train.ctc import ctc_ids, ctc_loss, ctc_texts
from adapt.train.fit import fit
from adapt.train.frames import FrameStore, frames_in_order, frames_of, spoken_batch
from adapt.train.speech import Speech, batches

log = logging.getLogger(__name__)


def train_encoder(
    encoder: CtcEncoder,
    speech: Speech,
    dev: Speech,
    settings: Encoder,
    *,
    temperature: float,
    folder: Path,
    seed: int,
    bf16: bool,
    workers: int = 0,
    frames: FrameStore | None = None,
) -> list[dict]:
    """Train the parameters of `encoder` that require a gradient; in place.

    frames: the lower frames of `speech`, for a frozen encoder; None: they are computed anew in each step. temperature:
    of sampling languages. folder, seed, bf16, workers: as in `fit`. Returns the log; ten times in a
    training a row has the greedy `wer` on `dev`. The first steps use short recordings, with which CTC learns sooner to
    output characters and not only blanks.
    """
    steps, alphabet = settings.steps, encoder.config.alphabet
    speech = Speech(frames.items) if frames else speech
    recordings_of = batches(
        speech,
        steps=steps,
        batch_seconds=settings.batch_seconds,
        temperature=temperature,
        short_first=settings.short_first,
        seed=seed,
    )
    save_every = max(1, steps // 20)
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    is_trained = any(parameter.requires_grad for parameter in encoder.encoder.parameters())

    def batch_of(step: int) -> dict:
        items, batch = spoken_batch(recordings_of, speech, frames, step, seed * 3_000_017 + step)
        return {**batch, "targets": [ctc_ids(item.text, alphabet) for item in items], "step": step}

    def loss_of(encoder: CtcEncoder, batch: dict) -> torch.Tensor:
        encoder.encoder.train(is_trained)
        for norm in norms:
            norm.train(is_trained and batch["step"] < (1 - settings.running_statistics) * steps)
        rows, weight = launched().rows(len(batch["targets"]))
        frames_of_rows, counts = frames_of(encoder, batch, rows, seed=batch["step"])
        targets = [batch["targets"][row] for row in rows]
        return weight * ctc_loss(encoder.ctc(frames_of_rows), counts, targets, len(alphabet))

    return fit(
        encoder,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": [p for p in encoder.parameters() if p.requires_grad], "lr": settings.learning_rate}],
        warmup=settings.warmup_steps,
        folder=folder,
        save_every=save_every,
        shared=True,
        evaluate=_evaluation(encoder, dev, steps, 2 * save_every, frozen=frames is not None),
        label="encoder",
        seed=seed,
        bf16=bf16,
        weight_decay=0.01,
        workers=workers,
    )


def _evaluation(
    encoder: CtcEncoder, dev: Speech, steps: int, every: int, *, frozen: bool
) -> Callable[[int, list[dict]], dict]:
    """The evaluation: greedy WER on `dev` at every multiple of `every`, and a warning if all hypotheses stay empty."""
    batches_of_dev = frames_in_order(encoder, dev, frozen)

    def evaluate(step: int, history: list[dict]) -> dict:
        if step == 0 or step % every:
            return {}
        encoder.eval()
        references, hypotheses = ctc_texts(encoder, batches_of_dev())
        encoder.train()
        if not any(hypotheses) and step > 0.3 * steps:
            log.warning(
                "encoder: step %d of %d, and all CTC hypotheses are empty; usual causes: too few steps, transcripts "
                "that do not belong to their audio, or fewer frames a second than characters",
                step,
                steps,
            )
        return {"wer": round(jiwer.wer(references, hypotheses), 4)}

    return evaluate
