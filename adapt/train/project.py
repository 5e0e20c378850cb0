"""Learn what stands around the slot, from paired audio, everything else frozen."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from adapt.model.learned import LearnedPrompt, with_learned
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.train.fit import fit, uses_bf16
from adapt.train.stages import Replay, Tuned, best_row, by_length, draw, mean_loss


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
) -> Tuned:
    """Train a prompt on paired audio; what has the lowest loss on `dev` is written to `out`, and left in `learned`."""
    speech_llm.model.requires_grad_(False).eval()
    view, ordered = with_learned(speech_llm, learned), by_length(train.slots)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        return {"rows": torch.tensor(draw(rng, ordered, batch_size, rng.random()))}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        places = batch["rows"].tolist()
        rows, mask, labels = view.training_batch([train.slots[i] for i in places], [train.targets[i] for i in places])
        return token_loss(view.forward(rows, mask), labels)

    best = folder / "best.pt"

    def evaluate(step: int, log: list[dict]) -> dict:
        row = {"step": step, "dev_loss": mean_loss(view, dev.slots, dev.targets)}
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
        label="project",
        seed=seed,
        bf16=uses_bf16(precision, speech_llm.device),
    )
    learned.load_state_dict(torch.load(best, weights_only=True))
    learned.save(out, speech_llm)
    return Tuned(log, best_row(log)["step"])
