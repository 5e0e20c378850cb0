"""Train projector, decoder and encoder together on real audio."""

from __future__ import annotations

import logging
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel

from adapt.model.adapter import linear_layers
from adapt.model.composed import ComposedForSpeechRecognition
from adapt.model.speech_llm import SpeechLLM, greedy_paths, token_loss
from adapt.recipe.base import Align
from adapt.train.common import mean_loss
from adapt.train.ctc import ctc_ids, ctc_loss
from adapt.train.explicit import EXPLICIT, SlotBatch
from adapt.train.fit import fit
from adapt.train.perturb import perturbed
from adapt.train.speech import Speech, Spoken, batches, readable_batch
from adapt.train.unit_selection import UnitInventory, build_inventory

SHORT_FIRST = 0.2  # first share of the steps, in which batches go from short recordings to all of them
log = logging.getLogger(__name__)


def align(
    speech_llm: SpeechLLM,
    speech: Speech,
    dev: Speech,
    texts: Sequence[str],
    settings: Align,
    *,
    temperature: float,
    folder: Path,
    seed: int,
    bf16: bool,
    workers: int = 0,
) -> list[dict]:
    """Train the projector to output embeddings that the decoder reads, then decoder and encoder with it; in place.

    texts: sentences for the simulated slots. temperature: of sampling languages. folder, seed, bf16, workers: as in
    `fit`. LoRA is merged at the end. Returns the log; ten times in a training a row has `dev_loss`, and `other_loss`,
    the loss with the audio of another recording in the slot. A decoder that ignores its slot has the same loss with
    both.
    """
    model = speech_llm.model
    recordings_of = batches(
        speech,
        steps=settings.steps,
        batch_seconds=settings.batch_seconds,
        temperature=temperature,
        short_first=SHORT_FIRST,
        seed=seed,
    )
    inventory = frame_inventory(speech_llm, speech, settings.unit_recordings, seed) if settings.simulated else None
    lora, decoder_weights = _trained_decoder(model, settings)
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    rates = {"projector": settings.projector_rate, "encoder": settings.encoder_rate}
    groups = [{"params": list(getattr(model, part).parameters()), "lr": rate} for part, rate in rates.items()]
    groups += [{"params": decoder_weights, "lr": settings.decoder_rate}] if decoder_weights else []
    with speech_llm.plain_attention():
        history = fit(
            model,
            _batches(speech_llm, speech, recordings_of, texts, inventory, settings, seed),
            _loss(speech_llm, decoder_weights, settings, seed),
            steps=settings.steps,
            groups=groups,
            warmup=min(50, settings.steps // 10),
            folder=folder,
            save_every=max(1, settings.steps // 20),
            evaluate=_evaluation(speech_llm, dev, settings.steps),
            label="align",
            seed=seed,
            bf16=bf16,
            weight_decay=0.01,
            workers=workers,
        )
    if lora:
        lora.merge_and_unload()
    return history


@torch.no_grad()
def frame_inventory(speech_llm: SpeechLLM, speech: Speech, recordings: int, seed: int) -> UnitInventory:
    """The inventory of unit selection, whose embeddings are encoder frames, from perturbed recordings.

    recordings: the number to use at most, drawn with `seed`.
    """
    encoder = speech_llm.model.encoder.eval()
    drawn = sorted(random.Random(seed).sample(speech.items, min(recordings, len(speech.items))))

    def paths_texts_frames() -> Iterator[tuple[str, str, torch.Tensor]]:
        for number, (items, samples, lengths) in enumerate(Speech(drawn, speech.max_bad, speech.bad).in_order()):
            inputs, mask = perturbed(encoder, samples.to(encoder.device), lengths.to(encoder.device), seed=number)
            frames, counts = encoder.frames(inputs, mask)
            rows = (row[:count].clone() for row, count in zip(frames.cpu(), counts.tolist(), strict=True))
            texts = ["".join(c for c in item.text if c in encoder.config.alphabet) for item in items]
            yield from zip(greedy_paths(encoder, frames, counts), texts, rows, strict=True)

    return build_inventory(paths_texts_frames())


def _trained_decoder(
    model: ComposedForSpeechRecognition, settings: Align
) -> tuple[LoraModel | None, list[torch.nn.Parameter]]:
    """The LoRA that is put on the decoder, or None, and the parameters of the decoder to train."""
    if settings.decoder == "frozen":
        return None, []
    if settings.decoder == "full":
        return None, list(model.language_model.parameters())
    layers = linear_layers(model.language_model, "language_model", attention=True)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=layers)
    lora = LoraModel(model, config, "align")
    return lora, [p for p in model.language_model.parameters() if p.requires_grad]


def _batches(
    speech_llm: SpeechLLM,
    speech: Speech,
    recordings_of: Callable[[int], list[Spoken]],
    texts: Sequence[str],
    inventory: UnitInventory | None,
    settings: Align,
    seed: int,
) -> Callable[[int], dict]:
    """The function that returns a batch: recordings, and sentences with simulated slots.

    The sentences are about as long as the transcripts in the batch, so that little padding is needed.
    """
    alphabet, by_length = speech_llm.model.encoder.config.alphabet, sorted(texts, key=len)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 3_000_017 + step)
        items, batch = readable_batch(recordings_of, speech, step)
        transcripts = [item.text for item in items]
        first = bisect_left(by_length, min(map(len, transcripts)), key=len)
        last = bisect_right(by_length, max(map(len, transcripts)), key=len)
        count = round(len(items) * settings.simulated) if last > first else 0
        sentences = [by_length[rng.randrange(first, last)] for _ in range(count)]
        return {
            **batch,
            "letters": [ctc_ids(text, alphabet) for text in transcripts],
            "targets": [speech_llm.target_ids(text) for text in [*transcripts, *sentences]],
            "simulated": [inventory.select(text, rng) for text in sentences],
            "step": step,
        }

    return batch_of


def _loss(
    speech_llm: SpeechLLM, decoder_weights: Sequence[torch.nn.Parameter], settings: Align, seed: int
) -> Callable[[torch.nn.Module, dict], torch.Tensor]:
    """The loss function: the transcript's loss, the CTC loss while the encoder is trained, and the explicit loss."""
    model, encoder = speech_llm.model, speech_llm.model.encoder
    explicit = EXPLICIT[settings.explicit]

    def loss_of(_: torch.nn.Module, batch: dict) -> torch.Tensor:
        step = batch["step"]
        encoder_trained = step >= settings.encoder_from * settings.steps
        encoder.train(encoder_trained)
        encoder.requires_grad_(encoder_trained)
        model.language_model.train(bool(decoder_weights))
        for parameter in decoder_weights:
            parameter.requires_grad_(step >= settings.decoder_from * settings.steps)
        inputs, mask = perturbed(encoder, batch["samples"], batch["lengths"], seed=seed * 3_000_017 + step)
        frames, counts = encoder.frames(inputs, mask)
        rows = [row[:n].float() for row, n in zip(frames, counts.tolist(), strict=True)]
        rows += [row.to(frames.device) for row in batch["simulated"]]
        lengths = torch.tensor([len(row) for row in rows], device=frames.device)
        frames = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        projected, slots = model.projector(frames), -(-lengths // model.config.stack)
        embeddings = [row[:n] for row, n in zip(projected, slots.tolist(), strict=True)]
        loss = token_loss(*speech_llm.labelled(*speech_llm.training_batch(embeddings, batch["targets"])))
        logits = encoder.ctc(frames) if encoder_trained or explicit else None
        if encoder_trained:
            blank = len(encoder.config.alphabet)
            loss = loss + settings.ctc_weight * ctc_loss(logits[: len(counts)], counts, batch["letters"], blank)
        if explicit:
            loss = loss + explicit(SlotBatch(speech_llm, projected, slots, batch["targets"], logits))
        return loss

    return loss_of


def _evaluation(speech_llm: SpeechLLM, dev: Speech, steps: int) -> Callable[[int, list[dict]], dict]:
    """The evaluation: losses on `dev` at every tenth of the steps, and a warning if the decoder ignores its slot."""
    model = speech_llm.model

    def evaluate(step: int, history: list[dict]) -> dict:
        if step % max(1, steps // 10):
            return {}
        model.eval()
        embeddings, targets = [], []
        for items, samples, lengths in dev.in_order():
            inputs = model.encoder.inputs(samples.to(model.device), lengths.to(model.device))
            with torch.no_grad():
                embeddings += model.get_audio_features(*inputs)
            targets += [speech_llm.target_ids(item.text) for item in items]
        dev_loss = mean_loss(speech_llm, embeddings, targets)
        other_loss = mean_loss(speech_llm, [*embeddings[1:], embeddings[0]], targets)
        model.train()
        if step > 0.4 * steps and other_loss - dev_loss < 0.05:
            log.warning(
                "align: step %d of %d, and the decoder ignores the audio (loss %.2f, with other audio %.2f); usual "
                "causes: an encoder that recognises nothing yet, or a small decoder that was not trained to read "
                "simulated letters first",
                step,
                steps,
                dev_loss,
                other_loss,
            )
        return {"dev_loss": dev_loss, "other_loss": other_loss}

    return evaluate
