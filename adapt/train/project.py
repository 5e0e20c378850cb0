"""Learn from paired audio what stands around the slot, and what else of the model is not frozen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adapt.errors import ModelError
from adapt.model import adapter
from adapt.model.families import audio_parameters
from adapt.model.features import pad
from adapt.model.learned import LearnedPrompt, with_learned
from adapt.model.save import save
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.train.fit import fit, uses_bf16
from adapt.train.perturb import perturb_audio
from adapt.train.stages import Tuned, best_row, by_length, draw, mean_loss

AUDIO_PARTS = ("encoder", "projector")


@dataclass(frozen=True)
class Pairs:
    """Paired audio: target ids of each utterance, and slot vectors `[slots, hidden]`, or samples to make them of."""

    targets: Sequence[Sequence[int]]
    slots: Sequence[torch.Tensor] = ()
    samples: Sequence[np.ndarray] = ()


class _Trained(torch.nn.Module):
    """All that is trained and nothing else, so that a checkpoint is no larger."""

    def __init__(self, learned: LearnedPrompt | None, weights: Sequence[torch.nn.Parameter]):
        super().__init__()
        self.learned, self.weights = learned, torch.nn.ParameterList(weights)


def _audio_weights(speech_llm: SpeechLLM, part: str, samples: Sequence[np.ndarray]) -> list[torch.nn.Parameter]:
    """The parameters of a part of the audio side, ready to be trained."""
    found = audio_parameters(speech_llm.model, part)
    if any(p.dtype != torch.float32 for p in found):
        raise ModelError(f"project.{part}: {found[0].dtype} is too coarse to train; set dtype: fp32")
    for parameter in found:
        parameter.requires_grad_(True)
    heard = speech_llm.hear(samples)[0]
    if not heard.requires_grad or not any(
        grad is not None for grad in torch.autograd.grad(heard.sum(), found, allow_unused=True)
    ):
        kind = speech_llm.model.config.model_type
        raise ModelError(f"project.{part}: a {kind} model runs it without a gradient; keep it frozen")
    return found


def learn(
    speech_llm: SpeechLLM,
    learned: LearnedPrompt | None,
    train: Pairs,
    dev: Pairs,
    *,
    folder: Path,
    out: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    eval_every: int,
    seed: int,
    precision: str,
    parts: Sequence[str] = (),
    weights_rate: float = 3e-4,
    rank: int = 16,
    alpha: int = 32,
) -> Tuned:
    """Train a prompt on paired audio, and `parts`: `encoder`, `projector`, `llm` (by LoRA). Keeps the best on `dev`.

    Without `parts` the model stays as it is and `out` is a file, the prompt. With them `out` is the folder of a model
    in which they are changed, LoRA merged and the prompt beside it. Where what hears is trained, `train` and `dev`
    bring samples, and those of `train` are perturbed anew each time. Raises `ModelError` for parts that the model does
    not have, or has in too few bits.
    """
    hears = any(part in AUDIO_PARTS for part in parts)
    tuner = adapter.add_lora(speech_llm, rank, alpha, 0.0) if "llm" in parts else None
    if tuner is None:
        speech_llm.model.requires_grad_(False)
    speech_llm.model.eval()
    weights = [p for p in speech_llm.model.parameters() if p.requires_grad]
    for part in AUDIO_PARTS:
        if part in parts:
            weights += _audio_weights(speech_llm, part, train.samples[:1])
    held = _Trained(learned, weights)
    view = with_learned(speech_llm, learned) if learned else speech_llm
    ordered = by_length(train.samples if hears else train.slots)

    def slots_of(pairs: Pairs, places: Sequence[int], seed: int | None = None) -> list[torch.Tensor]:
        if not hears:
            return [pairs.slots[i] for i in places]
        samples = [pairs.samples[i] for i in places]
        if seed is not None:
            audio, lengths = pad(samples)
            audio = perturb_audio(audio, lengths, torch.Generator().manual_seed(seed))
            samples = [row[:n].numpy() for row, n in zip(audio, lengths.tolist(), strict=True)]
        return speech_llm.hear(samples)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        rows = draw(rng, ordered, batch_size, rng.random())
        return {"rows": torch.tensor(rows), "noise": rng.randrange(2**31)}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        places = batch["rows"].tolist()
        slots = slots_of(train, places, batch["noise"])
        rows, mask, labels = view.training_batch(slots, [train.targets[i] for i in places])
        return token_loss(view.forward(rows, mask), labels)

    best = folder / "best.pt"

    def evaluate(step: int, log: list[dict]) -> dict:
        with torch.no_grad():
            slots = [
                slot
                for i in range(0, len(dev.targets), 16)
                for slot in slots_of(dev, range(len(dev.targets))[i : i + 16])
            ]
        row = {"step": step, "dev_loss": mean_loss(view, slots, dev.targets)}
        if best_row([*log, row]) is row:
            torch.save(held.state_dict(), best)
        return row

    groups = [{"params": list(learned.parameters()), "lr": learning_rate}] if learned else []
    groups += [{"params": weights, "lr": weights_rate}] if weights else []
    log = fit(
        held,
        batch_of,
        loss_of,
        steps=steps,
        groups=groups,
        warmup=min(20, steps // 5),
        folder=folder,
        save_every=min(eval_every, steps),
        evaluate=evaluate,
        label="project",
        seed=seed,
        bf16=uses_bf16(precision, speech_llm.device),
    )
    held.load_state_dict(torch.load(best, weights_only=True))
    if parts:
        if tuner:
            tuner.merge_and_unload()
        save(view, out)
    else:
        learned.save(out, speech_llm)
    return Tuned(log, best_row(log)["step"])
