"""Align encoder, projector and decoder on real audio."""

from __future__ import annotations

import logging
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import LoraModel

from adapt.model.adapter import linear_layers
from adapt.model.speech_llm import BLANK, SpeechLLM, paths, token_loss
from adapt.train.common import mean_loss
from adapt.train.ctc import ctc_ids, ctc_loss
from adapt.train.fit import fit
from adapt.train.perturb import perturbed
from adapt.train.pseudo_audio import symbol_ids
from adapt.train.speech import Speech, batches, readable_batch
from adapt.train.unit_selection import UnitInventory, build_inventory

log = logging.getLogger(__name__)


@torch.no_grad()
def frame_inventory(speech_llm: SpeechLLM, speech: Speech, recordings: int, seed: int) -> UnitInventory:
    """What the encoder hears for each letter, learned from so many perturbed recordings; its slots are frames."""
    encoder = speech_llm.model.encoder.eval()
    chosen = sorted(random.Random(seed).sample(speech.items, min(recordings, len(speech.items))))

    def heard() -> Iterator[tuple[str, str, torch.Tensor]]:
        for number, (items, samples, lengths) in enumerate(Speech(chosen, speech.max_bad, speech.bad).in_order()):
            inputs, mask = perturbed(encoder, samples.to(encoder.device), lengths.to(encoder.device), seed=number)
            frames, counts = encoder.frames(inputs, mask)
            rows = (row[:count].clone() for row, count in zip(frames.cpu(), counts.tolist(), strict=True))
            said = ["".join(c for c in item.text if c in encoder.config.alphabet) for item in items]
            yield from zip(paths(encoder, frames, counts), said, rows, strict=True)

    return build_inventory(heard())


class Slots:
    """A batch's slots as an explicit alignment loss sees them.

    vectors: `[batch, slots, hidden]`, in float32. lengths: how many of them count, `[batch]`. targets: token ids of
    each transcript. logits: CTC logits of the encoder's frames, `[batch, frames, characters + 1]`.
    """

    def __init__(self, speech_llm: SpeechLLM, vectors: torch.Tensor, lengths: torch.Tensor, targets, logits):
        self.speech_llm, self.vectors, self.lengths = speech_llm, vectors.float(), lengths
        self.targets, self.logits = targets, logits
        self.table = speech_llm.model.get_input_embeddings().weight.detach().float()
        self.inside = torch.arange(vectors.shape[1], device=vectors.device)[None] < lengths[:, None]


def _letters(slots: Slots) -> torch.Tensor:
    """Mean squared distance to the embeddings of the letters that the CTC head hears, weighted by their posteriors.

    In units of the mean square of a letter's embedding.
    """
    symbols, stack = symbol_ids(slots.speech_llm), slots.speech_llm.model.config.stack
    alphabet = slots.speech_llm.model.config.alphabet
    table = slots.table[[symbols[c] for c in [*alphabet, BLANK]]]
    heard = slots.logits.detach().float().softmax(-1) @ table
    heard = F.pad(heard, (0, 0, 0, -heard.shape[1] % stack)).unflatten(1, (-1, stack)).mean(2)
    distance = (slots.vectors - heard).square().sum(-1)[slots.inside].mean()
    return distance / table.square().sum(-1).mean()


def _cosine(slots: Slots) -> torch.Tensor:
    """1 - cosine between each audio embedding and the token that stands at its share of the transcript."""
    wanted = torch.zeros_like(slots.inside, dtype=torch.long)
    for row, target, length in zip(wanted, slots.targets, slots.lengths.tolist(), strict=True):
        places = torch.arange(length, device=row.device) * len(target) // length
        row[:length] = torch.tensor(target, device=row.device)[places]
    return (1 - F.cosine_similarity(slots.vectors, slots.table[wanted], dim=-1))[slots.inside].mean()


def _token_ctc(slots: Slots) -> torch.Tensor:
    """CTC over tokens, with ten times the cosine to a token's embedding as its logit, and padding as the blank."""
    logits = 10 * F.normalize(slots.vectors, dim=-1) @ F.normalize(slots.table, dim=-1).T
    tokens = [target[:-1] for target in slots.targets]  # the end of sentence may be the padding too
    return ctc_loss(logits, slots.lengths, tokens, slots.speech_llm.tokenizer.pad_token_id)


# What ties audio embeddings to token embeddings beside the transcript's own loss.
EXPLICIT: dict[str, Callable[[Slots], torch.Tensor] | None] = {
    "none": None,
    "letters": _letters,
    "cosine": _cosine,
    "ctc": _token_ctc,
}


@dataclass(frozen=True)
class AlignSettings:
    """How `align` goes on. Rates are peaks; shares are of the steps or of the batch.

    `decoder`: frozen, lora (rank `rank`, scale `alpha` / rank, on the layers of attention), or full. `encoder_from`
    and `decoder_from`: after which share of the steps each joins the projector; 1 is never. `played`: to each batch of
    audio come so many times as many texts, in frames pieced together from `recordings` perturbed recordings
    (`inventory`), so that the decoder goes on reading what text-only adaptation will show it, and meets more sentences
    than are spoken. `letters`: weight of the encoder's CTC loss, once it joins. `explicit`: one of EXPLICIT, with its
    weight.
    """

    steps: int
    batch_seconds: float
    projector_rate: float = 2e-3
    encoder_rate: float = 4e-4
    decoder_rate: float = 3e-4
    decoder: str = "full"
    rank: int = 16
    alpha: int = 32
    encoder_from: float = 1.0
    decoder_from: float = 0.2
    played: float = 1.0
    recordings: int = 2_000
    letters: float = 0.3
    explicit: str = "letters"
    explicit_weight: float = 1.0
    temperature: float = 1.0


def align(
    speech_llm: SpeechLLM,
    speech: Speech,
    dev: Speech,
    texts: Sequence[str],
    settings: AlignSettings,
    *,
    folder: Path,
    seed: int,
    bf16: bool,
    workers: int = 0,
) -> list[dict]:
    """Teach the projector to speak the language that the decoder reads, then encoder and decoder beside it.

    The model is changed in place; LoRA is merged into it at the end. Every tenth of the way `dev_loss` is logged, and
    `other_loss`, that of the same transcripts with the next recording in the slot: a decoder that does not look at its
    slot has the two alike.
    """
    model, encoder = speech_llm.model, speech_llm.model.encoder
    alphabet = encoder.config.alphabet
    draw = batches(
        speech,
        steps=settings.steps,
        batch_seconds=settings.batch_seconds,
        temperature=settings.temperature,
        short=0.2,
        seed=seed,
    )
    inventory = frame_inventory(speech_llm, speech, settings.recordings, seed) if settings.played else None
    explicit = EXPLICIT[settings.explicit]
    by_length = sorted(texts, key=len)
    tuner = None
    if settings.decoder == "lora":
        layers = linear_layers(model.language_model, "language_model", attention=True)
        tuner = LoraModel(model, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=layers), "align")
    tuned = {
        "full": list(model.language_model.parameters()),
        "lora": [p for p in model.language_model.parameters() if p.requires_grad],
        "frozen": [],
    }[settings.decoder]
    model.requires_grad_(False)
    model.projector.requires_grad_(True)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 3_000_017 + step)
        items, batch = readable_batch(draw, speech, step)
        said = [item.text for item in items]
        # As long as what is said, or they would all be padded to the longest.
        first = bisect_left(by_length, min(map(len, said)), key=len)
        last = bisect_right(by_length, max(map(len, said)), key=len)
        count = round(len(items) * settings.played) if last > first else 0
        written = [by_length[rng.randrange(first, last)] for _ in range(count)]
        return {
            **batch,
            "letters": [ctc_ids(text, alphabet) for text in said],
            "targets": [speech_llm.target_ids(text) for text in [*said, *written]],
            "played": [inventory.select(text, rng) for text in written],
            "step": step,
        }

    def loss_of(_: torch.nn.Module, batch: dict) -> torch.Tensor:
        step, stack = batch["step"], model.config.stack
        joint = step >= settings.encoder_from * settings.steps
        encoder.train(joint)
        encoder.requires_grad_(joint)
        model.language_model.train(bool(tuned))
        for parameter in tuned:
            parameter.requires_grad_(step >= settings.decoder_from * settings.steps)
        inputs, mask = perturbed(encoder, batch["samples"], batch["lengths"], seed=seed * 3_000_017 + step)
        frames, spoken = encoder.frames(inputs, mask)
        rows = [row[:n].float() for row, n in zip(frames, spoken.tolist(), strict=True)]
        rows += [row.to(frames.device) for row in batch["played"]]
        lengths = torch.tensor([len(row) for row in rows], device=frames.device)
        frames = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        vectors, slots = model.projector(frames), -(-lengths // stack)
        in_slot = [row[:n] for row, n in zip(vectors, slots.tolist(), strict=True)]
        embeds, places, labels = speech_llm.training_batch(in_slot, batch["targets"])
        loss = token_loss(*speech_llm.labelled(embeds, places, labels))
        logits = encoder.ctc(frames) if joint or explicit else None
        if joint:
            loss = loss + settings.letters * ctc_loss(logits[: len(spoken)], spoken, batch["letters"], len(alphabet))
        if explicit:
            seen = Slots(speech_llm, vectors, slots, batch["targets"], logits)
            loss = loss + settings.explicit_weight * explicit(seen)
        return loss

    def evaluate(step: int, history: list[dict]) -> dict:
        if step % max(1, settings.steps // 10):
            return {}
        model.eval()
        slots, targets = [], []
        for items, samples, lengths in dev.in_order():
            with torch.no_grad():
                slots += model.get_audio_features(*encoder.inputs(samples.to(model.device), lengths.to(model.device)))
            targets += [speech_llm.target_ids(item.text) for item in items]
        own, other = mean_loss(speech_llm, slots, targets), mean_loss(speech_llm, [*slots[1:], slots[0]], targets)
        model.train()
        if step > 0.4 * settings.steps and other - own < 0.05:
            log.warning(
                "align: step %d of %d, and the decoder does not look at the audio (loss %.2f, with other audio %.2f); "
                "usual causes: an encoder that hears nothing yet, or a decoder too small to read its slot untaught "
                "(llm.read_steps)",
                step,
                settings.steps,
                own,
                other,
            )
        return {"dev_loss": own, "other_loss": other}

    parts = {"projector": settings.projector_rate, "encoder": settings.encoder_rate}
    groups = [{"params": list(getattr(model, part).parameters()), "lr": rate} for part, rate in parts.items()]
    groups += [{"params": tuned, "lr": settings.decoder_rate}] if tuned else []
    with speech_llm.plain_attention():
        history = fit(
            model,
            batch_of,
            loss_of,
            steps=settings.steps,
            groups=groups,
            warmup=min(50, settings.steps // 10),
            folder=folder,
            save_every=max(1, settings.steps // 20),
            evaluate=evaluate,
            label="align",
            seed=seed,
            bf16=bf16,
            weight_decay=0.01,
            workers=workers,
        )
    if tuner:
        tuner.merge_and_unload()
    return history
