"""Train the projector by CTC over units of the LLM's own token embeddings, without the decoder in the loop.

What the projector outputs then lies where the LLM has its tokens, and the decoder reads it within some tens of steps.
From paired audio through the decoder alone, others report plateaus of thousands of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jiwer
import torch

from adapt.model.composed import ComposedForSpeechRecognition
from adapt.model.speech_llm import SpeechLLM
from adapt.ranks import launched
from adapt.recipe.base import Align
from adapt.train.ctc import ctc_ids, ctc_loss
from adapt.train.explicit import SlotBatch, unit_ctc
from adapt.train.fit import fit
from adapt.train.frames import FrameStore, frames_in_order, frames_of, spoken_batch
from adapt.train.speech import Speech, batches
from adapt.train.units import unit_writer


def encoder_weights(model: ComposedForSpeechRecognition, frames: FrameStore | None) -> list[torch.nn.Parameter]:
    """The parameters of the encoder that can be trained.

    Those are all, or for stored frames a LoRA of the tuned layers and the CTC head.
    """
    named = model.encoder.named_parameters()
    return [p for name, p in named if frames is None or "lora_" in name or not name.startswith("encoder.")]


def align_ctc(
    speech_llm: SpeechLLM,
    speech: Speech,
    dev: Speech,
    settings: Align,
    *,
    temperature: float,
    folder: Path,
    seed: int,
    bf16: bool,
    workers: int,
    frames: FrameStore | None,
) -> list[dict]:
    """Train the projector and the model's CTC head over units; in place. Arguments as in `align`.

    With stored frames, the tuned layers of the encoder are trained too, with the CTC loss of their letters. Returns the
    log; ten times in a training a row has `units_wer`, the WER of the greedy units on `dev`.
    """
    model, encoder, steps = speech_llm.model, speech_llm.model.encoder, settings.ctc_steps
    seconds = settings.ctc_seconds
    recordings_of = batches(speech, steps=steps, batch_seconds=seconds, temperature=temperature, seed=seed + 1)
    write = unit_writer(settings.units, speech_llm.tokenizer, [item.text for item in speech.items])
    tuned = encoder_weights(model, frames) if frames else []
    model.requires_grad_(False)
    own = [*model.projector.parameters(), *model.unit_ctc.parameters()]
    for parameter in (*own, *tuned):
        parameter.requires_grad_(True)
    trained = _Trained(model)

    def batch_of(step: int) -> dict:
        items, batch = spoken_batch(recordings_of, speech, frames, step, seed * 5_000_011 + step)
        letters = [ctc_ids(item.text, encoder.config.alphabet) for item in items]
        return {**batch, "units": [write(item.text) for item in items], "letters": letters, "step": step}

    def loss_of(_: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows, weight = launched().rows(len(batch["units"]))
        units, letters = ([batch[key][row] for row in rows] for key in ("units", "letters"))
        frames, counts = frames_of(encoder, batch, rows, seed=seed * 5_000_011 + batch["step"])
        slots = -(-counts // model.config.stack)
        logits = encoder.ctc(frames) if tuned else None
        loss = unit_ctc(SlotBatch(speech_llm, model.projector(frames), slots, units, logits))
        if tuned:
            loss = loss + settings.ctc_weight * ctc_loss(logits, counts, letters, len(encoder.config.alphabet))
        return weight * loss

    encoder.eval()
    return fit(
        trained,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": [*own, *tuned], "lr": settings.ctc_rate}],
        warmup=min(100, steps // 10),
        folder=folder,
        save_every=max(1, steps // 20),
        evaluate=_evaluation(speech_llm, dev, steps, frozen=frames is not None),
        label="units",
        shared=True,
        seed=seed,
        bf16=bf16,
        weight_decay=0.01,
        workers=workers,
    )


class _Trained(torch.nn.Module):
    """What the training changes, as a module whose checkpoints leave the decoder out."""

    def __init__(self, model: ComposedForSpeechRecognition):
        super().__init__()
        self.encoder, self.projector, self.unit_ctc = model.encoder, model.projector, model.unit_ctc


def _evaluation(speech_llm: SpeechLLM, dev: Speech, steps: int, *, frozen: bool) -> Callable[[int, list[dict]], dict]:
    """The evaluation: WER of the greedy units on `dev` at every tenth of the steps."""
    model = speech_llm.model
    batches_of_dev = frames_in_order(model.encoder, dev, frozen)

    @torch.no_grad()
    def evaluate(step: int, history: list[dict]) -> dict:
        if step == 0 or step % max(1, steps // 10):
            return {}
        model.encoder.eval()
        references, hypotheses = [], []
        for items, frames, counts in batches_of_dev():
            for item, row in zip(items, model.stacks(frames, counts), strict=True):
                references.append(item.text)
                hypotheses.append(unit_text(speech_llm, row))
        return {"units_wer": round(jiwer.wer(references, hypotheses), 4)}

    return evaluate


@torch.no_grad()
def unit_text(speech_llm: SpeechLLM, audio_embeddings: torch.Tensor) -> str:
    """The greedy CTC hypothesis of audio embeddings `[slots, hidden]` in the units of the model."""
    head = speech_llm.model.unit_ctc
    best = head(audio_embeddings[None], speech_llm.model.get_input_embeddings().weight)[0].argmax(-1).tolist()
    units = [
        unit for place, unit in enumerate(best) if unit < len(head.units) and (place == 0 or unit != best[place - 1])
    ]
    return " ".join(speech_llm.tokenizer.decode(head.units[units].tolist()).split())
