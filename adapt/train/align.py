"""Train projector, decoder and encoder together on real audio, after the projector alone (`train.align_ctc`)."""

from __future__ import annotations

import logging
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel

from adapt.model.adapter import linear_layers
from adapt.model.composed import ComposedForSpeechRecognition
from adapt.model.encoders import greedy_paths
from adapt.model.lora_weights import LoraWeights
from adapt.model.packing import target_logits
from adapt.model.speech_llm import SpeechLLM
from adapt.ranks import launched
from adapt.recipe.base import Align
from adapt.train.align_ctc import align_ctc, encoder_weights
from adapt.train.common import Lists, mean_loss, mean_over_tokens
from adapt.train.ctc import ctc_ids, ctc_loss
from adapt.train.explicit import EXPLICIT, SlotBatch
from adapt.train.fit import fit
from adapt.train.frames import FrameStore, frames_in_order, frames_of, spoken_batch
from adapt.train.mishearing import Pair, misheard, mishearing_inventory, mishearings
from adapt.train.perturb import perturbed
from adapt.train.pseudo_audio import transcript_ids
from adapt.train.speech import Speech, Spoken, batches
from adapt.train.unit_selection import UnitInventory, build_inventory
from adapt.train.units import unit_writer

Simulation = Callable[[str, random.Random], torch.Tensor]

SHORT_FIRST = 0.2  # first share of the steps, in which batches go from short recordings to all of them
MISHEARD = 0.05  # mean share of the words that are misheard in the simulated transcripts
EVALUATED = 100  # recordings, at most: with a large LLM an evaluation takes as long as several steps
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alignment:
    """The outcome of `align`.

    log: of the training. lora: all LoRA, which is merged into the model; None without. mishearings: pairs of what an
    encoder that transcribes heard in `speech` and what was said; [] for other encoders.
    """

    log: list[dict]
    lora: LoraWeights | None
    mishearings: list[Pair]


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
    frames: FrameStore | None = None,
    lists: Lists | None = None,
) -> Alignment:
    """Train the projector to output embeddings that the decoder reads, then decoder and encoder with it; in place.

    texts: sentences for the simulated slots. temperature: of sampling languages. folder, seed, bf16, workers: as in
    `fit`. frames: the lower frames of `speech`, for a frozen encoder; None: they are computed anew in each step. lists:
    draws the names in the prompt of a sentence; None: there are none. The projector learns `settings.ctc_steps` by CTC
    alone (`align_ctc`) before the decoder is in the loop. Ten times in a training a row of the log has `dev_loss`, and
    `other_loss`, the loss with the audio of another recording in the slot. A decoder that ignores its slot has the same
    loss with both.
    """
    model = speech_llm.model
    speech = Speech(frames.items) if frames else speech
    tuned = _tuned_encoder(model, settings)
    common = {"temperature": temperature, "seed": seed, "bf16": bf16, "workers": workers, "frames": frames}
    history = (
        align_ctc(speech_llm, speech, dev, settings, folder=folder / "ctc", **common) if settings.ctc_steps else []
    )
    recordings_of = batches(
        speech,
        steps=settings.steps,
        batch_seconds=settings.batch_seconds,
        temperature=temperature,
        short_first=SHORT_FIRST,
        seed=seed,
    )
    pairs = mishearings(_first_passes(speech_llm, speech, frames)) if speech_llm.transcribes else []
    simulate = _simulation(speech_llm, speech, pairs, settings.unit_recordings, seed) if settings.simulated else None
    with _coarse_while_frozen(model, bf16 and settings.decoder != "full"):
        lora, decoder_weights = _trained_decoder(model, settings)
        model.requires_grad_(False)
        model.projector.requires_grad_(True)
        groups = [
            {"params": list(model.projector.parameters()), "lr": settings.projector_rate},
            {"params": encoder_weights(model, frames), "lr": settings.encoder_rate},
            *([{"params": decoder_weights, "lr": settings.decoder_rate}] if decoder_weights else []),
        ]
        if model.unit_ctc and settings.explicit == "ctc":
            model.unit_ctc.requires_grad_(True)
            groups[0]["params"] += list(model.unit_ctc.parameters())
        with speech_llm.plain_attention():
            history += fit(
                model,
                _batches(speech_llm, speech, recordings_of, texts, simulate, settings, seed, frames, lists),
                _loss(speech_llm, decoder_weights, settings, seed, frames),
                steps=settings.steps,
                groups=groups,
                warmup=min(50, settings.steps // 10),
                folder=folder,
                save_every=max(1, settings.steps // 20),
                evaluate=_evaluation(speech_llm, dev, settings.steps, frozen=frames is not None),
                label="align",
                shared=True,
                seed=seed,
                bf16=bf16,
                weight_decay=0.01,
                workers=workers,
            )
        weights = LoraWeights.of(lora or tuned) if lora or tuned else None
        if weights:
            (lora or tuned).unload()  # all of the model's LoRA
    if weights:
        weights.merge_into(model)
    return Alignment(history, weights, pairs)


@contextmanager
def _coarse_while_frozen(model: ComposedForSpeechRecognition, coarse: bool) -> Iterator[None]:
    """Keep the frozen decoder in bf16 for a training in mixed precision, which otherwise casts it in every step.

    Its weights are restored at the end, without any LoRA in between.
    """
    if not coarse:
        yield
        return
    fine = {name: weights.clone() for name, weights in model.language_model.state_dict().items()}
    dtype = model.language_model.dtype
    model.language_model.to(torch.bfloat16)
    yield
    model.language_model.to(dtype).load_state_dict(fine)


def _simulation(speech_llm: SpeechLLM, speech: Speech, pairs: Sequence[Pair], recordings: int, seed: int) -> Simulation:
    """The function that simulates what stands for a sentence: encoder frames, or tokens of the encoder's transcript.

    pairs: what the encoder mishears. recordings: the number at most whose units are selected, drawn with `seed`.
    """
    if not speech_llm.transcribes:
        return frame_inventory(speech_llm, speech, recordings, seed).select
    inventory = mishearing_inventory(pairs)

    def transcript(text: str, rng: random.Random) -> torch.Tensor:
        return torch.tensor(transcript_ids(speech_llm, misheard(text, inventory, MISHEARD, rng)), dtype=torch.long)

    return transcript


def _first_passes(speech_llm: SpeechLLM, speech: Speech, frames: FrameStore) -> Iterator[Pair]:
    """The encoder's transcript of each recording, and its own transcript."""
    for item in speech.items:
        (row,) = frames.rows([item])
        (ids,) = speech_llm.model.first_pass(row[None].to(speech_llm.device), torch.tensor([len(row)]))
        yield speech_llm.tokenizer.decode(ids).strip(), item.text


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


def _tuned_encoder(model: ComposedForSpeechRecognition, settings: Align) -> LoraModel | None:
    """The LoRA that is put on the tuned layers of the encoder; None if it has none."""
    encoder = model.encoder.encoder
    if not (count := getattr(encoder.config, "tuned_layers", 0)):
        return None
    first = encoder.config.num_hidden_layers - count
    layers = [name for name in linear_layers(encoder, "encoder.encoder") if _number(name) >= first]
    rank = settings.encoder_rank
    return LoraModel(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), "encoder")


def _number(layer: str) -> int:
    """The number of the block that a layer belongs to: 4 of `encoder.encoder.layers.4.fc1`."""
    return next(int(part) for part in layer.split(".") if part.isdigit())


def _trained_decoder(
    model: ComposedForSpeechRecognition, settings: Align
) -> tuple[LoraModel | None, list[torch.nn.Parameter]]:
    """The LoRA that is put on the decoder, or None, and the parameters of the decoder to train."""
    if settings.decoder == "frozen":
        return None, []
    if settings.decoder == "full":
        return None, list(model.language_model.parameters())
    layers = linear_layers(model.language_model, "language_model", attention=settings.lora_layers == "attention")
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=layers)
    lora = LoraModel(model, config, "align")
    weights = [p for p in model.language_model.parameters() if p.requires_grad]
    for parameter in weights:
        parameter.data = parameter.data.float()  # in bf16, small updates would be lost
    return lora, weights


def _batches(
    speech_llm: SpeechLLM,
    speech: Speech,
    recordings_of: Callable[[int], list[Spoken]],
    texts: Sequence[str],
    simulate: Simulation | None,
    settings: Align,
    seed: int,
    frames: FrameStore | None,
    lists: Lists | None,
) -> Callable[[int], dict]:
    """The function that returns a batch: recordings, and sentences with simulated slots.

    The sentences are about as long as the transcripts in the batch, so that little padding is needed.
    """
    alphabet, by_length = speech_llm.model.encoder.config.alphabet, sorted(texts, key=len)
    heard = [item.text for item in speech.items]
    write = unit_writer(settings.units, speech_llm.tokenizer, heard) if settings.explicit == "ctc" else lambda text: []

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 3_000_017 + step)
        items, batch = spoken_batch(recordings_of, speech, frames, step, seed * 3_000_017 + step)
        transcripts = [item.text for item in items]
        first = bisect_left(by_length, min(map(len, transcripts)), key=len)
        last = bisect_right(by_length, max(map(len, transcripts)), key=len)
        count = round(len(items) * settings.simulated) if last > first else 0
        sentences = [by_length[rng.randrange(first, last)] for _ in range(count)]
        return {
            **batch,
            "letters": [ctc_ids(text, alphabet) for text in transcripts],
            "targets": [speech_llm.target_ids(text) for text in [*transcripts, *sentences]],
            "units": [write(text) for text in [*transcripts, *sentences]],
            "simulated": [simulate(text, rng) for text in sentences],
            "names": [lists(text, rng) if lists else () for text in [*transcripts, *sentences]],
            "step": step,
        }

    return batch_of


def _loss(
    speech_llm: SpeechLLM,
    decoder_weights: Sequence[torch.nn.Parameter],
    settings: Align,
    seed: int,
    stored: FrameStore | None,
) -> Callable[[torch.nn.Module, dict], torch.Tensor]:
    """The loss function: the transcript's loss, the CTC loss while the encoder is trained, and the explicit loss."""
    model, encoder = speech_llm.model, speech_llm.model.encoder
    explicit, weights = EXPLICIT[settings.explicit], encoder_weights(model, stored)

    def loss_of(_: torch.nn.Module, batch: dict) -> torch.Tensor:
        step = batch["step"]
        encoder_trained = step >= settings.encoder_from * settings.steps
        encoder.train(encoder_trained and stored is None)
        for parameter in weights:
            parameter.requires_grad_(encoder_trained)
        model.language_model.train(bool(decoder_weights))
        for parameter in decoder_weights:
            parameter.requires_grad_(step >= settings.decoder_from * settings.steps)
        ranks, recordings, sentences = launched(), len(batch["letters"]), len(batch["targets"])
        own, weight = ranks.rows(recordings)
        made = ranks.share(range(recordings, sentences))
        targets, names, units = ([batch[key][i] for i in (*own, *made)] for key in ("targets", "names", "units"))
        frames, counts = frames_of(encoder, batch, own, seed=seed * 3_000_017 + step)
        rows = [row[:n].float() for row, n in zip(frames, counts.tolist(), strict=True)]
        simulated = [batch["simulated"][i - recordings].to(frames.device) for i in made]
        rows += [] if speech_llm.transcribes else simulated
        lengths = torch.tensor([len(row) for row in rows], device=frames.device)
        frames = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        stacks = model.stacks(frames, lengths)
        embeddings = model.slots(stacks)
        embeddings += list(map(model.get_input_embeddings(), simulated)) if speech_llm.transcribes else []
        loss = mean_over_tokens(*target_logits(speech_llm, embeddings, targets, names), sum(map(len, batch["targets"])))
        logits = encoder.ctc(frames) if encoder_trained or explicit else None
        if encoder_trained:
            blank = len(encoder.config.alphabet)
            letters = [batch["letters"][i] for i in own]
            loss = loss + weight * settings.ctc_weight * ctc_loss(logits[: len(counts)], counts, letters, blank)
        if explicit:
            padded, slots = torch.nn.utils.rnn.pad_sequence(stacks, True), torch.tensor(list(map(len, stacks)))
            batch_slots = SlotBatch(speech_llm, padded, slots.to(frames.device), units, logits)
            loss = loss + ranks.count * len(targets) / sentences * explicit(batch_slots)
        return loss

    return loss_of


def _evaluation(speech_llm: SpeechLLM, dev: Speech, steps: int, *, frozen: bool) -> Callable[[int, list[dict]], dict]:
    """The evaluation: losses on EVALUATED recordings of `dev` at every tenth of the steps.

    Warns if the decoder ignores its slot.
    """
    model = speech_llm.model
    dev = Speech(dev.items[:: -(-len(dev.items) // EVALUATED)], dev.max_bad)
    batches_of_dev = frames_in_order(model.encoder, dev, frozen)

    def evaluate(step: int, history: list[dict]) -> dict:
        if step % max(1, steps // 10):
            return {}
        model.eval()
        embeddings, targets = [], []
        for items, frames, counts in batches_of_dev():
            with torch.no_grad():
                embeddings += model.project(frames, counts)
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
