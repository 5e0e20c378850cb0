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
from adapt.model.features import SAMPLE_RATE, pad
from adapt.model.learned_prompt import LearnedPrompt, with_learned
from adapt.model.parts import audio_parameters
from adapt.model.save import precision as precision_of
from adapt.model.save import save_speech_llm
from adapt.model.soft_prompt import SLOT_EXAMPLES, save_slot_examples
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.train.common import TrainingResult, best_row, by_length, draw, mean_loss
from adapt.train.ctc import ctc_loss
from adapt.train.fit import fit, uses_bf16
from adapt.train.perturb import perturb_audio

AUDIO_PARTS = ("encoder", "projector")
LETTERS = 0.3  # weight of the encoder's CTC loss
EXAMPLES = 12  # recordings whose audio embeddings are kept beside the model


@dataclass(frozen=True)
class Pairs:
    """Paired audio: target ids of each utterance, and audio embeddings `[slots, hidden]`, or samples to make them of.

    letters: places of the characters in the alphabet of the encoder's CTC head, if it has one.
    """

    targets: Sequence[Sequence[int]]
    slots: Sequence[torch.Tensor] = ()
    samples: Sequence[np.ndarray] = ()
    letters: Sequence[Sequence[int]] = ()


class _Trained(torch.nn.Module):
    """All that is trained and nothing else, so that a checkpoint is no larger."""

    def __init__(self, learned: LearnedPrompt | None, weights: Sequence[torch.nn.Parameter]):
        super().__init__()
        self.learned, self.weights = learned, torch.nn.ParameterList(weights)


def ready(speech_llm: SpeechLLM, parts: Sequence[str]) -> list[torch.nn.Parameter]:
    """The parameters of what hears in `parts`, those that the model itself holds fixed left out.

    Raises `ModelError` for parts that it does not have, has in too few bits, or runs without a gradient, and for a
    model that could not be written again.
    """
    if parts:
        precision_of(speech_llm)
    found, quiet = [], [np.zeros(SAMPLE_RATE, np.float32)]
    for part in (part for part in AUDIO_PARTS if part in parts):
        weights = [p for p in audio_parameters(speech_llm.model, part) if p.requires_grad]
        if coarse := next((p.dtype for p in weights if p.dtype != torch.float32), None):
            raise ModelError(f"project.{part}: {coarse} is too coarse to train; set dtype: fp32")
        heard = speech_llm.audio_embeddings_with_gradient(quiet)[0].sum()
        grads = torch.autograd.grad(heard, weights, allow_unused=True) if heard.requires_grad else ()
        if all(grad is None for grad in grads):
            kind = speech_llm.model.config.model_type
            raise ModelError(f"project.{part}: a {kind} model runs it without a gradient; keep it frozen")
        found += weights
    return found


def _perturbed(samples: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    audio, lengths = perturb_audio(*pad(samples), torch.Generator().manual_seed(seed))
    return [row[:n].numpy() for row, n in zip(audio, lengths.tolist(), strict=True)]


def learn_from_pairs(
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
) -> TrainingResult:
    """Train a prompt on paired audio, and `parts`: `encoder`, `projector`, `llm` (by LoRA). Keeps the best on `dev`.

    Without `parts` the model stays as it is and `out` is a file, the prompt. With them `out` is the folder of a model
    in which they are changed, LoRA merged and the prompt beside it. Where what hears is trained, `train` and `dev`
    bring samples, and those of `train` are perturbed anew each time. Raises `ModelError` for parts that the model does
    not have, or has in too few bits.
    """
    hears, letters = any(part in AUDIO_PARTS for part in parts), "encoder" in parts and bool(train.letters)
    audio = ready(speech_llm, parts)
    tuner = adapter.add_lora(speech_llm, rank, alpha, 0.0) if "llm" in parts else None
    if tuner is None:
        speech_llm.model.requires_grad_(False)
    speech_llm.model.eval()
    weights = [p for p in speech_llm.model.parameters() if p.requires_grad]
    for parameter in audio:
        parameter.requires_grad_(True)
    weights += audio
    held = _Trained(learned, weights)
    view = with_learned(speech_llm, learned) if learned else speech_llm
    ordered = by_length(train.samples if hears else train.slots)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        rows = draw(rng, ordered, batch_size, rng.random())
        return {"rows": torch.tensor(rows), "noise": rng.randrange(2**31)}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        places = batch["rows"].tolist()
        heard = 0.0
        if not hears:
            slots = [train.slots[i] for i in places]
        elif letters:  # or its CTC head, which nothing else trains, would be left behind
            encoder = speech_llm.model.encoder
            frames, counts = speech_llm.frames(_perturbed([train.samples[i] for i in places], batch["noise"]))
            slots, blank = speech_llm.model.project(frames, counts), len(encoder.config.alphabet)
            heard = LETTERS * ctc_loss(encoder.ctc(frames), counts, [train.letters[i] for i in places], blank)
        else:
            slots = speech_llm.audio_embeddings_with_gradient(
                _perturbed([train.samples[i] for i in places], batch["noise"])
            )
        rows, mask, labels = view.training_batch(slots, [train.targets[i] for i in places])
        return token_loss(*view.labelled(rows, mask, labels)) + heard

    best = folder / "best.pt"

    def evaluate(step: int, log: list[dict]) -> dict:
        slots = dev.slots
        if hears:
            batches = (dev.samples[i : i + 16] for i in range(0, len(dev.samples), 16))
            slots = [slot for batch in batches for slot in speech_llm.audio_embeddings(batch)]
        row = {"step": step, "dev_loss": mean_loss(view, slots, dev.targets)}
        if best_row([*log, row]) is row:
            torch.save(held.state_dict(), best)
        return row

    groups = [{"params": list(learned.parameters()), "lr": learning_rate}] if learned else []
    groups += [{"params": weights, "lr": weights_rate}] if weights else []
    with speech_llm.plain_attention():
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
        save_speech_llm(view, out)
        if hears and (out / SLOT_EXAMPLES).exists():
            save_slot_examples(out / SLOT_EXAMPLES, speech_llm.audio_embeddings(dev.samples[:EXAMPLES]))
    else:
        learned.save(out, speech_llm)
    return TrainingResult(log, best_row(log)["step"])
