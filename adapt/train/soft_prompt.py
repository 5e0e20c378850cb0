"""Stage 1: learn the soft prompt on the domain text, with everything else frozen."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from adapt.model import soft_prompt
from adapt.model.packing import target_logits
from adapt.model.speech_llm import SpeechLLM
from adapt.ranks import launched
from adapt.recipe.domain import Prompt
from adapt.train.common import TrainingResult, best_row, by_length, check_share, draw, mean_loss, mean_over_tokens
from adapt.train.fit import fit, uses_bf16


class _SoftPrompt(torch.nn.Module):
    """The vectors as the only parameter of a module."""

    def __init__(self, vectors: torch.Tensor):
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)


def learn_soft_prompt(
    speech_llm: SpeechLLM,
    train: Sequence[str],
    dev: Sequence[str],
    settings: Prompt,
    *,
    examples: Sequence[torch.Tensor],
    folder: Path,
    out: Path,
    seed: int,
    precision: str,
    label: str = "prompt",
) -> TrainingResult:
    """Train vectors in the slot on the sentences `train`, and write those with the lowest loss on `dev` to `out`.

    settings: its `length` is a number, not `auto`. examples: audio embeddings `[slots, hidden]` of real audio, for the
    `init` choices `audio` and `stats`; () for others. folder: for checkpoints. label: names the training in its
    progress bar and errors. precision: auto, fp32 or bf16.
    """
    check_share(settings.batch_size, "prompt.batch_size")
    speech_llm.model.requires_grad_(False).eval()
    torch.manual_seed(seed)
    start = soft_prompt.initial(settings.init, settings.length, examples, speech_llm).float()
    module = _SoftPrompt(start)
    targets, dev_targets = ([speech_llm.target_ids(t) for t in texts] for texts in (train, dev))
    ordered, ranks = by_length(targets), launched()

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        return {"rows": torch.tensor(draw(rng, ordered, settings.batch_size, rng.random()))}

    def loss_of(model: _SoftPrompt, batch: dict) -> torch.Tensor:
        rows = batch["rows"].tolist()
        vectors = next(model.parameters())
        mine = ranks.share(rows)
        logits, labels = target_logits(speech_llm, [vectors] * len(mine), [targets[i] for i in mine])
        return mean_over_tokens(logits, labels, sum(len(targets[i]) for i in rows))

    def evaluate(step: int, log: list[dict]) -> dict:
        row = {"step": step, "dev_loss": mean_loss(speech_llm, [module.vectors] * len(dev), dev_targets)}
        if best_row([*log, row]) is row and ranks.is_first:
            soft_prompt.save_soft_prompt(folder / "best.safetensors", module.vectors)
        return row

    with speech_llm.plain_attention():
        log = fit(
            module,
            batch_of,
            loss_of,
            steps=settings.steps,
            groups=[{"params": [module.vectors], "lr": settings.learning_rate}],
            warmup=min(20, settings.steps // 5),
            folder=folder,
            save_every=min(settings.eval_every, settings.steps),
            evaluate=evaluate,
            label=label,
            shared=True,
            seed=seed,
            bf16=uses_bf16(precision, speech_llm.device),
        )
    if ranks.is_first:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "best.safetensors", out)
    return TrainingResult(log, best_row(log)["step"])
