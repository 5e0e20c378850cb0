"""Learn what stands around the slot, from paired audio, everything else frozen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from adapt.model.learned import LearnedPrompt
from adapt.model.speech_llm import IGNORED, SpeechLLM, token_loss
from adapt.train.fit import fit, uses_bf16
from adapt.train.stages import Replay, Tuned, best_row, by_length, draw


@torch.no_grad()
def paired_loss(speech_llm: SpeechLLM, learned: LearnedPrompt | None, pairs: Replay, batch_size: int = 32) -> float:
    """Mean loss per target token behind a prompt, in nats; None: behind the base's own."""
    total = tokens = 0.0
    order = by_length(pairs.slots)
    for start in range(0, len(order), batch_size):
        rows, mask, labels = _batch(speech_llm, learned, pairs, order[start : start + batch_size])
        count = int((labels != IGNORED).sum())
        total += token_loss(speech_llm.forward(rows, mask), labels).item() * count
        tokens += count
    return total / tokens


def _batch(speech_llm: SpeechLLM, learned: LearnedPrompt | None, pairs: Replay, places: Sequence[int]):
    targets = [pairs.targets[i] for i in places]
    if learned is None:
        return speech_llm.training_batch([pairs.slots[i] for i in places], targets)
    before, after = learned.rows(speech_llm)
    prompts = [torch.cat([before, speech_llm.in_slot(pairs.slots[i]), after]) for i in places]
    return speech_llm.batch(prompts, targets)


def learn(
    speech_llm: SpeechLLM,
    learned: LearnedPrompt,
    train: Replay,
    dev: Replay,
    *,
    folder: Path,
    out: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    eval_every: int,
    seed: int,
    precision: str,
    label: str = "project",
) -> Tuned:
    """Train a prompt on paired audio; what has the lowest loss on `dev` is written to `out`, and left in `learned`."""
    speech_llm.model.requires_grad_(False).eval()
    ordered = by_length(train.slots)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        return {"rows": torch.tensor(draw(rng, ordered, batch_size, rng.random()))}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows, mask, labels = _batch(speech_llm, learned, train, batch["rows"].tolist())
        return token_loss(speech_llm.forward(rows, mask), labels)

    best = folder / "best.pt"

    def evaluate(step: int, log: list[dict]) -> dict:
        row = {"step": step, "dev_loss": paired_loss(speech_llm, learned, dev)}
        if best_row([*log, row]) is row:
            torch.save(learned.state_dict(), best)
        return row

    log = fit(
        learned,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": list(learned.parameters()), "lr": learning_rate}],
        warmup=min(20, steps // 5),
        folder=folder,
        save_every=min(eval_every, steps),
        evaluate=evaluate,
        label=label,
        seed=seed,
        bf16=uses_bf16(precision, speech_llm.device),
    )
    learned.load_state_dict(torch.load(best, weights_only=True))
    learned.save(out, speech_llm)
    return Tuned(log, best_row(log)["step"])
