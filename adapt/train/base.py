"""The stages that build a speech LLM from parts: encoder (CTC), decoder (language model), read, align."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from transformers import ParakeetForCTC

from adapt.model.features import pad_features
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.train.fit import fit
from adapt.train.pseudo_audio import Source, slots
from adapt.train.stages import mean_loss


@dataclass
class Shards:
    """Log-mel shards of a folder: pairs of `NNNN.npy` and `NNNN.jsonl` (text, voice, frames)."""

    folder: Path
    items: list[tuple[int, int, int, str, str]] = field(default_factory=list)  # frames, shard, offset, text, voice
    _features: dict[int, np.ndarray] = field(default_factory=dict)

    def grow(self, shards: int, patience: float = 600.0) -> Shards:
        """Read the indices of the first `shards` shards, waiting for those that are still being made."""
        while len(self._features) < shards:
            number = len(self._features)
            index = self.folder / f"{number:04d}.jsonl"
            waited = 0.0
            while not index.exists():
                if waited > patience:
                    raise TimeoutError(f"{index}: not there after {patience:.0f} s")
                time.sleep(1.0)
                waited += 1.0
            offset = 0
            for line in index.read_text(encoding="utf-8").splitlines():
                item = json.loads(line)
                self.items.append((item["frames"], number, offset, item["text"], item["voice"]))
                offset += item["frames"]
            self._features[number] = np.load(index.with_suffix(".npy"), mmap_mode="r")
            self.items.sort()
        return self

    def features(self, item: tuple[int, int, int, str, str]) -> torch.Tensor:
        frames, shard, offset, _, _ = item
        return torch.from_numpy(self._features[shard][offset : offset + frames].astype(np.float32))


def augment(features: torch.Tensor, rng: random.Random, masks: bool) -> torch.Tensor:
    """Vocal-tract warp (0.85..1.18 along mel bins), time stretch (0.85..1.2) and, with `masks`, SpecAugment."""
    frames, bins = features.shape
    if rng.random() < 0.3:
        warp, stretch = rng.uniform(0.85, 1.18), rng.uniform(0.85, 1.2)
        grid_y = torch.linspace(-1, 1, max(8, round(frames * stretch)))
        # Mel bins are near linear below 1 kHz and logarithmic above: a shift along them is a formant shift.
        grid_x = ((torch.arange(bins) * warp + (1 - warp) * 4) / (bins - 1) * 2 - 1).clamp(-1, 1)
        grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)
        features = F.grid_sample(
            features[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
        )[0, 0]
    if masks:
        features, frames = features.clone(), len(features)
        width = rng.randint(0, 10)
        start = rng.randint(0, bins - width)
        features[:, start : start + width] = 0
        for _ in range(max(1, frames // 150)):
            width = rng.randint(0, 10)
            start = rng.randint(0, max(1, frames - width))
            features[start : start + width] = 0
    return features


def ctc_ids(text: str, alphabet: str) -> list[int]:
    return [alphabet.index(character) for character in text]


def encoder_batches(
    speech: Shards, human: Shards, alphabet: str, *, steps: int, batch_size: int, shards: int, seed: int = 1
) -> Callable[[int], dict]:
    """Batches of like length; the pool begins with the short utterances of the first shards and grows.

    Character targets leave the blank plateau soonest on short utterances. A tenth of the batches are human speech.
    """
    human.grow(1)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        progress = step / steps
        speech.grow(min(shards, 6 + int(1.6 * progress * shards)))
        source = human if step > 300 and rng.random() < 0.08 else speech
        reach = len(source.items) if step > 400 else int(len(source.items) * (0.15 + 0.85 * step / 400))
        start = rng.randrange(max(1, reach - batch_size))
        items = source.items[start : start + batch_size]
        features = [augment(source.features(item), rng, masks=step > 1000) for item in items]
        inputs, mask = pad_features(features)
        pad = len(alphabet)
        labels = [torch.tensor(ctc_ids(item[3], alphabet)) for item in items]
        labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=pad)
        return {"input_features": inputs, "attention_mask": mask, "labels": labels}

    return batch_of


def fixed_batches(
    items: Sequence, features: Callable, size: int = 50
) -> Iterator[tuple[list, torch.Tensor, torch.Tensor]]:
    for start in range(0, len(items), size):
        chosen = list(items[start : start + size])
        yield chosen, *pad_features([features(item) for item in chosen])


def ctc_greedy(logits: torch.Tensor, lengths: torch.Tensor, alphabet: str) -> list[str]:
    """Best path of each row of `[batch, frames, symbols]` within its length; blank is the last symbol."""
    texts = []
    for row, length in zip(logits.argmax(-1), lengths.tolist(), strict=True):
        symbols = torch.unique_consecutive(row[:length]).tolist()
        texts.append(" ".join("".join(alphabet[s] for s in symbols if s < len(alphabet)).split()))
    return texts


def text_batches(targets: Sequence[Sequence[int]], *, batch_size: int, seed: int = 1) -> Callable[[int], list[int]]:
    """Indices of targets of like length, a batch a step; every target once before any twice."""
    order = sorted(range(len(targets)), key=lambda i: len(targets[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def batch_of(step: int) -> list[int]:
        epoch, place = divmod(step, len(batches))
        shuffled = list(range(len(batches)))
        random.Random(seed * 7919 + epoch).shuffle(shuffled)
        return batches[shuffled[place]]

    return batch_of


@torch.no_grad()
def ctc_texts(model: ParakeetForCTC, speech: Shards, alphabet: str) -> tuple[list[str], list[str]]:
    """References and greedy CTC hypotheses of every utterance."""
    references, hypotheses = [], []
    for items, inputs, mask in fixed_batches(speech.items, speech.features):
        inputs, mask = inputs.to(model.device), mask.to(model.device)
        logits = model(input_features=inputs, attention_mask=mask).logits
        lengths = model._get_output_attention_mask(mask).sum(-1)
        hypotheses += ctc_greedy(logits, lengths, alphabet)
        references += [item[3] for item in items]
    return references, hypotheses


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """(S + D + I) / N over all utterances."""
    errors = words = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        errors += Levenshtein.distance(reference.split(), hypothesis.split())
        words += len(reference.split())
    return errors / words


def train_encoder(
    model: ParakeetForCTC,
    speech: Shards,
    human: Shards,
    dev: dict[str, Shards],
    alphabet: str,
    *,
    steps: int,
    batch_size: int,
    shards: int,
    learning_rate: float,
    folder: Path,
    bf16: bool,
) -> list[dict]:
    """CTC over characters. Every tenth of the way the WER of the greedy path on each set of `dev` is logged."""

    def evaluate(step: int, log: list[dict]) -> dict:
        if step == 0 or step % max(1, steps // 10):
            return {}
        model.eval()
        figures = {name: word_error_rate(*ctc_texts(model, speech, alphabet)) for name, speech in dev.items()}
        model.train()
        return {f"wer_{name}": round(rate, 4) for name, rate in figures.items()}

    return fit(
        model,
        encoder_batches(speech, human, alphabet, steps=steps, batch_size=batch_size, shards=shards),
        lambda model, batch: model(**batch).loss,
        steps=steps,
        groups=[{"params": list(model.parameters()), "lr": learning_rate}],
        warmup=min(400, steps // 10),
        folder=folder,
        save_every=100,
        evaluate=evaluate,
        label="encoder",
        bf16=bf16,
        weight_decay=0.01,
    )


def train_decoder(
    speech_llm: SpeechLLM,
    texts: Sequence[str],
    dev: Sequence[str],
    *,
    kind: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    folder: Path,
    bf16: bool,
    noises: Sequence[float] = (0.02, 0.1, 0.2),
) -> list[dict]:
    """The decoder alone, on text: a language model (`kind` empty), or one that reads its slot (`simulate`).

    To read, it sees each sentence in its slot spelled letter by letter with noise, the shortest sentences first;
    the loss stands still for some hundreds of steps and then breaks.
    """
    targets = [speech_llm.target_ids(text) for text in texts]
    dev_targets = [speech_llm.target_ids(text) for text in dev]
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    each_once = text_batches(targets, batch_size=batch_size)
    decoder = speech_llm.model.language_model

    def batch_of(step: int) -> dict:
        rng = random.Random(step)
        if kind == "empty":
            rows = each_once(step)
        else:
            reach = int(len(texts) * min(1.0, 0.2 + step / steps))
            start = rng.randint(0, max(0, reach - batch_size))
            rows = by_length[start : start + batch_size]
        return {"rows": torch.tensor(rows), "noise": rng.choice(list(noises)), "seed": step}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows, source = batch["rows"].tolist(), Source(speech_llm, None, batch["noise"])
        in_slot = slots(kind, source, [texts[i] for i in rows], random.Random(batch["seed"]))
        embeds, mask, labels = speech_llm.training_batch(in_slot, [targets[i] for i in rows])
        return token_loss(model(inputs_embeds=embeds, attention_mask=mask).logits, labels)

    def evaluate(step: int, log: list[dict]) -> dict:
        decoder.eval()
        in_slot = slots(kind, Source(speech_llm), dev, random.Random(0))
        loss = mean_loss(speech_llm, in_slot, dev_targets)
        decoder.train()
        return {"dev_loss": loss}

    return fit(
        decoder,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": list(decoder.parameters()), "lr": learning_rate}],
        warmup=min(100, steps // 10),
        folder=folder,
        save_every=100,
        evaluate=evaluate,
        label="lm" if kind == "empty" else "read",
        bf16=bf16,
        weight_decay=0.01,
    )


def align(
    speech_llm: SpeechLLM,
    speech: Shards,
    human: Shards,
    texts: Sequence[str],
    *,
    steps: int,
    batch_size: int,
    shards: int,
    unfreeze_at: float,
    learning_rates: dict[str, float],
    spelled: float,
    letters_weight: float,
    folder: Path,
    bf16: bool,
) -> list[dict]:
    """Projector and decoder on real encoder output; the encoder joins after `unfreeze_at` of the steps.

    `learning_rates`: peaks for `projector`, `language_model` and `encoder`. To each batch of audio come `spelled` times
    as many of `texts` with a simulated slot, so that the decoder goes on reading what text-only adaptation will show
    it, and meets more sentences than are spoken. While the encoder
    trains, its CTC loss is added with `letters_weight`, so that its head keeps telling letters.
    """
    model, alphabet = speech_llm.model, speech_llm.model.config.alphabet
    speech.grow(shards)
    human.grow(1)

    def batch_of(step: int) -> dict:
        rng = random.Random(3_000_017 + step)
        source = human if rng.random() < 0.08 else speech
        start = rng.randrange(max(1, int(len(source.items) * min(1.0, 0.3 + 2 * step / steps)) - batch_size))
        items = source.items[start : start + batch_size]
        inputs, mask = pad_features([augment(source.features(item), rng, masks=True) for item in items])
        said = [item[3] for item in items] + rng.choices(texts, k=round(batch_size * spelled))
        return {"input_features": inputs, "attention_mask": mask, "texts": said, "seed": step}

    def loss_of(_: torch.nn.Module, batch: dict) -> torch.Tensor:
        rng, said = random.Random(batch["seed"]), batch["texts"]
        joint = batch["seed"] >= unfreeze_at * steps
        with torch.set_grad_enabled(joint):
            frames, lengths = model.encode(batch["input_features"], batch["attention_mask"])
        count = (-(-lengths // model.config.stack)).tolist()
        in_slot = [row[:n] for row, n in zip(model.projector(frames), count, strict=True)]
        spoken, written = said[: len(in_slot)], said[len(in_slot) :]
        in_slot += slots("simulate", Source(speech_llm, None, rng.choice([0.05, 0.12, 0.2])), written, rng)
        embeds, mask, labels = speech_llm.training_batch(in_slot, [speech_llm.target_ids(t) for t in said])
        loss = token_loss(model(inputs_embeds=embeds, attention_mask=mask).logits, labels)
        if joint and letters_weight:
            letters = [torch.tensor(ctc_ids(text, alphabet)) for text in spoken]
            counts = torch.tensor([len(row) for row in letters])
            log_probs = model.encoder.ctc_head(frames).float().log_softmax(-1).transpose(0, 1)
            blank = len(alphabet)
            ctc = F.ctc_loss(log_probs, torch.cat(letters), lengths, counts, blank=blank, zero_infinity=True)
            loss = loss + letters_weight * ctc
        return loss

    groups = [
        {"params": [p for p in getattr(model, part).parameters()], "lr": rate} for part, rate in learning_rates.items()
    ]
    return fit(
        model,
        batch_of,
        loss_of,
        steps=steps,
        groups=groups,
        warmup=min(50, steps // 10),
        folder=folder,
        save_every=100,
        label="align",
        bf16=bf16,
        weight_decay=0.01,
    )
