"""Train an audio encoder by CTC over characters."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from adapt.model.encoders import CtcEncoder
from adapt.train.ctc import ctc_ids, ctc_loss, ctc_texts, word_error_rate
from adapt.train.fit import fit
from adapt.train.perturb import perturbed
from adapt.train.speech import Speech, batches, readable_batch

log = logging.getLogger(__name__)


def train_encoder(
    encoder: CtcEncoder,
    speech: Speech,
    dev: Speech,
    *,
    steps: int,
    batch_seconds: float,
    learning_rate: float,
    warmup_steps: int,
    temperature: float,
    short: float,
    running: float,
    folder: Path,
    seed: int,
    bf16: bool,
    workers: int = 0,
) -> list[dict]:
    """CTC over characters, of what in `encoder` requires a gradient.

    `short`: in this first share of the steps come the short recordings; character targets leave the plateau of blanks
    soonest on those. `running`: in this last share batch normalisation takes the running statistics, as in inference,
    not those of the batch.

    Every tenth of the way the WER of the greedy path on `dev` is logged.
    """
    draw = batches(speech, steps=steps, batch_seconds=batch_seconds, temperature=temperature, short=short, seed=seed)
    alphabet, save_every = encoder.config.alphabet, max(1, steps // 20)
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    trained = any(parameter.requires_grad for parameter in encoder.encoder.parameters())

    def batch_of(step: int) -> dict:
        items, batch = readable_batch(draw, speech, step)
        return {**batch, "targets": [ctc_ids(item.text, alphabet) for item in items], "step": step}

    def loss_of(encoder: CtcEncoder, batch: dict) -> torch.Tensor:
        encoder.encoder.train(trained)
        for norm in norms:
            norm.train(trained and batch["step"] < (1 - running) * steps)
        inputs, mask = perturbed(encoder, batch["samples"], batch["lengths"], seed=batch["step"])
        return ctc_loss(*encoder(inputs, mask), batch["targets"], len(alphabet))

    def evaluate(step: int, history: list[dict]) -> dict:
        if step == 0 or step % (2 * save_every):
            return {}
        encoder.eval()
        references, hypotheses = ctc_texts(encoder, dev)
        encoder.train()
        if not any(hypotheses) and step > 0.3 * steps:
            log.warning(
                "encoder: step %d of %d, and nothing but blanks is heard; usual causes: too few steps, transcripts "
                "that are not of their audio, or fewer frames a second than characters",
                step,
                steps,
            )
        return {"wer": round(word_error_rate(references, hypotheses), 4)}

    return fit(
        encoder,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": [p for p in encoder.parameters() if p.requires_grad], "lr": learning_rate}],
        warmup=warmup_steps,
        folder=folder,
        save_every=save_every,
        evaluate=evaluate,
        label="encoder",
        seed=seed,
        bf16=bf16,
        weight_decay=0.01,
        workers=workers,
    )
