"""Stage 1: the soft prompt learns the domain text, everything else frozen."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from adapt.model import soft_prompt
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.train.common import TrainingResult, best_row, by_length, draw, mean_loss
from adapt.train.fit import fit, uses_bf16


class _SoftPrompt(torch.nn.Module):
    def __init__(self, vectors: torch.Tensor):
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)


def learn_prompt(
    speech_llm: SpeechLLM,
    train: Sequence[str],
    dev: Sequence[str],
    *,
    examples: Sequence[torch.Tensor],
    folder: Path,
    out: Path,
    length: int,
    init: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    eval_every: int,
    seed: int,
    precision: str,
) -> TrainingResult:
    """Stage 1: `length` vectors in the slot learn the domain text; the model is frozen. Writes them to `out`.

    `examples` are audio embeddings of real audio to start from. The vectors with the lowest loss on `dev` are kept.
    """
    speech_llm.model.requires_grad_(False).eval()
    torch.manual_seed(seed)
    start = soft_prompt.initial(init, length, examples, speech_llm).float()
    module = _SoftPrompt(start)
    targets, dev_targets = ([speech_llm.target_ids(t) for t in texts] for texts in (train, dev))
    ordered = by_length(targets)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        return {"rows": torch.tensor(draw(rng, ordered, batch_size, rng.random()))}

    def loss_of(model: _SoftPrompt, batch: dict) -> torch.Tensor:
        rows = batch["rows"].tolist()
        vectors = next(model.parameters())
        embeds, mask, labels = speech_llm.training_batch([vectors] * len(rows), [targets[i] for i in rows])
        return token_loss(*speech_llm.labelled(embeds, mask, labels))

    def evaluate(step: int, log: list[dict]) -> dict:
        row = {"step": step, "dev_loss": mean_loss(speech_llm, [module.vectors] * len(dev), dev_targets)}
        if best_row([*log, row]) is row:
            soft_prompt.save_soft_prompt(folder / "best.safetensors", module.vectors)
        return row

    with speech_llm.plain_attention():
        log = fit(
            module,
            batch_of,
            loss_of,
            steps=steps,
            groups=[{"params": [module.vectors], "lr": learning_rate}],
            warmup=min(20, steps // 5),
            folder=folder,
            save_every=min(eval_every, steps),
            evaluate=evaluate,
            label="prompt",
            seed=seed,
            bf16=uses_bf16(precision, speech_llm.device),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "best.safetensors", out)
    return TrainingResult(log, best_row(log)["step"])
