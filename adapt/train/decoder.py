"""Stage 2: LoRA on the decoder, conditioned on pseudo audio."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import peft
import torch

from adapt.model import adapter
from adapt.model.speech_llm import IGNORED, SpeechLLM, token_loss
from adapt.train.common import (
    Replay,
    TrainingResult,
    best_row,
    by_length,
    draw,
    has_stalled,
    labelled_batches,
    mean_loss,
)
from adapt.train.fit import fit, uses_bf16
from adapt.train.pseudo_audio import Source, slots
from adapt.train.unit_selection import UnitInventory

KEPT = 2**29  # bytes of what the base says of replayed audio that are kept, so that it says so once


@torch.no_grad()
def _said_by_base(speech_llm: SpeechLLM, replayed: Replay) -> list[torch.Tensor] | None:
    """Logits `[target tokens, vocabulary]` of each replayed utterance; None where they would be more than KEPT."""
    width = speech_llm.vocabulary * speech_llm.model.dtype.itemsize
    if width * sum(map(len, replayed.targets)) > KEPT:
        return None
    found: dict[int, torch.Tensor] = {}
    for rows, logits, labels in labelled_batches(speech_llm, replayed.slots, replayed.targets):
        counts = [len(replayed.targets[i]) for i in rows]
        found |= dict(zip(rows, _at_labels(logits, labels).split(counts), strict=True))
    return [found[i] for i in range(len(found))]


def tune_decoder(
    speech_llm: SpeechLLM,
    train: Sequence[str],
    dev: Sequence[str],
    *,
    soft_prompt: torch.Tensor | None,
    inventory: UnitInventory | None,
    replayed: Replay | None,
    guard: Replay | None,
    folder: Path,
    out: Path,
    name: str,
    pseudo_audio: str,
    noise: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    rank: int,
    alpha: int,
    dropout: float,
    replay: float,
    anchor: float,
    activations: str,
    eval_every: int,
    patience: int,
    guard_tolerance: float,
    seed: int,
    precision: str,
) -> TrainingResult:
    """Stage 2: LoRA on the decoder, the text as target, pseudo audio in the slot. Writes an adapter to `out`.

    A share `replay` of each batch is source audio with its transcript, on which the decoder is also held to
    the base's own output distribution (KL divergence, weight `anchor`). The checkpoint with the lowest loss on
    `dev` is kept, of those whose loss on `guard` (source audio) rose by at most `guard_tolerance`; step 0, the
    base itself, is one of them. activations: `kept`, or `recomputed` in the backward pass.
    """
    replay_rows = round(batch_size * replay) if replayed else 0
    base_said = _said_by_base(speech_llm, replayed) if replay_rows and anchor else None
    torch.manual_seed(seed)
    model = adapter.add_lora(speech_llm, rank, alpha, dropout)
    if activations == "recomputed":
        speech_llm.model.get_decoder().gradient_checkpointing_enable({"use_reentrant": False})
    source = Source(speech_llm, soft_prompt, noise, inventory)
    targets, dev_targets = ([speech_llm.target_ids(t) for t in texts] for texts in (train, dev))
    ordered, again_ordered = by_length(train), by_length(replayed.slots) if replayed else []

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        place = rng.random()
        rows = draw(rng, ordered, batch_size - replay_rows, place)
        again = draw(rng, again_ordered, replay_rows, place) if replay_rows else []
        return {
            "rows": torch.tensor(rows),
            "again": torch.tensor(again, dtype=torch.long),
            "noise": rng.random(),
        }

    def loss_of(tuned: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows, again = batch["rows"].tolist(), batch["again"].tolist()
        rng = random.Random(batch["noise"])
        in_slot = slots(pseudo_audio, source, [train[i] for i in rows], rng)
        in_slot += [replayed.slots[i] for i in again]
        wanted = [targets[i] for i in rows] + [replayed.targets[i] for i in again]
        embeds, mask, labels = speech_llm.training_batch(in_slot, wanted)
        logits, said = speech_llm.labelled(embeds, mask, labels, through=tuned)
        loss = token_loss(logits, said)
        if again and anchor:
            kept = len(rows)
            if base_said:
                base = torch.cat([base_said[i] for i in again])
            else:
                with torch.no_grad(), model.disable_adapter():
                    base = speech_llm.forward(embeds[kept:], mask[kept:], keep=logits.shape[1], through=model)
                base = _at_labels(base, said[kept:])
            loss = loss + anchor * _divergence(base, _at_labels(logits[kept:], said[kept:]))
        return loss

    dev_slots = slots(pseudo_audio, source, dev, random.Random(seed))

    def evaluate(step: int, log: list[dict]) -> dict:
        model.eval()
        row = {"step": step, "dev_loss": mean_loss(speech_llm, dev_slots, dev_targets)}
        if guard:
            row["guard_loss"] = mean_loss(speech_llm, guard.slots, guard.targets)
        if best_row([*log, row], guard_tolerance) is row:
            model.save_pretrained(folder / "best")
        model.train()
        return row

    with speech_llm.plain_attention():
        log = fit(
            model,
            batch_of,
            loss_of,
            steps=steps,
            groups=[{"params": [p for p in model.parameters() if p.requires_grad], "lr": learning_rate}],
            warmup=warmup_steps,
            folder=folder,
            save_every=min(eval_every, steps),
            evaluate=evaluate,
            stop=lambda rows: has_stalled(rows, patience),
            label="decoder",
            seed=seed,
            bf16=uses_bf16(precision, speech_llm.device),
        )
    best = best_row(log, guard_tolerance)
    weights = peft.utils.load_peft_weights(folder / "best", device=str(speech_llm.device))
    peft.set_peft_model_state_dict(model, weights)
    model.eval()
    metadata = {"name": name, "base": speech_llm.name, "pseudo_audio": pseudo_audio, "step": best["step"]}
    adapter.save_adapter(out, model, metadata, soft_prompt, speech_llm)
    return TrainingResult(log, best["step"])


def _at_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Those of `logits [batch, length, vocabulary]` that predict a label: `[tokens, vocabulary]`."""
    return logits[:, :-1][labels[:, 1:] != IGNORED]


def _divergence(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Mean KL(base || tuned) over rows of logits `[tokens, vocabulary]`, in nats."""
    base, tuned = (x.float().log_softmax(-1) for x in (base, tuned))
    return torch.nn.functional.kl_div(tuned, base, log_target=True, reduction="batchmean")
