"""The stages that build a speech LLM from parts: encoder (CTC), decoder (language model), read, align."""

from __future__ import annotations

import json
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from transformers import ParakeetForCTC

from adapt.model.features import log_mel, pad
from adapt.model.speech_llm import BLANK, IGNORED, SpeechLLM, token_loss
from adapt.train.channel import Channel, learn
from adapt.train.fit import fit
from adapt.train.perturb import perturbed
from adapt.train.pseudo_audio import Source, simulated_ids, symbol_ids
from adapt.train.stages import mean_loss


class Utterance(NamedTuple):
    """A row of a shard. samples: how many; offset: where they begin in the shard's array."""

    samples: int
    shard: int
    offset: int
    text: str
    voice: str


@dataclass
class Shards:
    """Speech of a folder, 16 kHz: pairs of `NNNN.npy` (int16 samples end to end) and `NNNN.jsonl` (an index)."""

    folder: Path
    items: list[Utterance] = field(default_factory=list)  # the shortest first
    _samples: list[np.ndarray] = field(default_factory=list)

    def grow(self, shards: int, patience: float = 600.0) -> Shards:
        """Read the indices of the first `shards` shards, waiting for those that are still being made."""
        while len(self._samples) < shards:
            number = len(self._samples)
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
                self.items.append(Utterance(item["samples"], number, offset, item["text"], item["voice"]))
                offset += item["samples"]
            self._samples.append(np.load(index.with_suffix(".npy"), mmap_mode="r"))
            self.items.sort()
        return self

    def audio(self, items: Sequence[Utterance]) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples of `items`, int16 `[batch, length]`, and their lengths `[batch]`."""
        batch, lengths = pad([np.array(self._samples[i.shard][i.offset : i.offset + i.samples]) for i in items])
        # Whole half seconds: a Fourier transform is planned anew, slowly, for each length that it meets.
        return F.pad(batch, (0, -batch.shape[1] % 8_000)), lengths


def features_of(samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and mask of int16 samples as they are."""
    return log_mel(samples.float() / 32_768, lengths)


def ctc_ids(text: str, alphabet: str) -> list[int]:
    return [alphabet.index(character) for character in text]


def audio_batches(
    speech: Shards, human: Shards, *, steps: int, batch_size: int, shards: int, short: float, seed: int
) -> Callable[[int], tuple[torch.Tensor, torch.Tensor, list[str]]]:
    """Samples, lengths and transcripts of utterances of like length.

    The pool begins with the short utterances of the first shards and is whole after the share `short` of the steps;
    then one batch in ten is human speech.
    """
    human.grow(1)

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        rng = random.Random(seed * 1_000_003 + step)
        progress = step / steps
        speech.grow(min(shards, 6 + int(1.6 * progress * shards)))
        source = human if progress >= short and rng.random() < 0.1 else speech
        share = 1.0 if progress >= short else 0.15 + 0.85 * progress / short
        reach = int(len(source.items) * share)
        start = rng.randrange(max(1, reach - batch_size))
        items = source.items[start : start + batch_size]
        return *source.audio(items), [item.text for item in items]

    return batch_of


def fixed_batches(
    speech: Shards, device: torch.device, size: int = 50
) -> Iterator[tuple[list[Utterance], torch.Tensor, torch.Tensor]]:
    """(utterances, features, mask) of all there is, unperturbed."""
    for start in range(0, len(speech.items), size):
        chosen = speech.items[start : start + size]
        yield chosen, *features_of(*(x.to(device) for x in speech.audio(chosen)))


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


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
    for items, features, mask in fixed_batches(speech, model.device):
        logits = model(input_features=features, attention_mask=mask).logits
        lengths = model._get_output_attention_mask(mask).sum(-1)
        hypotheses += ctc_greedy(logits, lengths, alphabet)
        references += [item.text for item in items]
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
    short: float,
    batch_statistics: bool,
    folder: Path,
    bf16: bool,
    workers: int = 0,
) -> list[dict]:
    """CTC over characters, of what in `model` requires a gradient.

    `batch_statistics`: batch normalisation takes those of the batch, as is usual; without, the running ones, as in
    inference. A batch is all human or all synthetic speech, and what each of them looks like under its own statistics
    is not what it looks like under the common ones: the last stretch of training has to be without.

    Every tenth of the way the WER of the greedy path on each set of `dev` is logged. Character targets leave the
    plateau of blanks soonest on short utterances: those are the first share `short`.
    """
    batches = audio_batches(speech, human, steps=steps, batch_size=batch_size, shards=shards, short=short, seed=1)
    save_every = max(1, steps // 20)

    def batch_of(step: int) -> dict:
        samples, lengths, texts = batches(step)
        labels = padded([ctc_ids(text, alphabet) for text in texts], len(alphabet))
        return {"samples": samples, "lengths": lengths, "labels": labels, "seed": step}

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]

    def loss_of(model: ParakeetForCTC, batch: dict) -> torch.Tensor:
        for norm in norms:
            norm.train(batch_statistics)
        features, mask = perturbed(batch["samples"].float() / 32_768, batch["lengths"], seed=batch["seed"])
        return model(input_features=features, attention_mask=mask, labels=batch["labels"]).loss

    def evaluate(step: int, log: list[dict]) -> dict:
        if step == 0 or step % (2 * save_every):
            return {}
        model.eval()
        figures = {name: word_error_rate(*ctc_texts(model, speech, alphabet)) for name, speech in dev.items()}
        model.train()
        return {f"wer_{name}": round(rate, 4) for name, rate in figures.items()}

    return fit(
        model,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": [p for p in model.parameters() if p.requires_grad], "lr": learning_rate}],
        warmup=min(400, steps // 10),
        folder=folder,
        save_every=save_every,
        evaluate=evaluate,
        label="encoder",
        bf16=bf16,
        weight_decay=0.01,
        workers=workers,
    )


def train_decoder(
    speech_llm: SpeechLLM,
    texts: Sequence[str],
    dev: Sequence[str],
    *,
    reads: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
    folder: Path,
    bf16: bool,
    noise: float = 0.12,
    workers: int = 0,
) -> list[dict]:
    """The decoder alone, on text: a language model with an empty slot, or one that `reads` its slot.

    To read, it sees each sentence in its slot spelled letter by letter with noise, the shortest sentences first;
    the loss stands still for some hundreds of steps and then breaks.
    """
    targets = [speech_llm.target_ids(text) for text in texts]
    dev_targets = [speech_llm.target_ids(text) for text in dev]
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    each_once = text_batches(targets, batch_size=batch_size)
    decoder, source = speech_llm.model.language_model, Source(speech_llm, None, noise)

    def batch_of(step: int) -> dict:
        rng = random.Random(step)
        if reads:
            reach = int(len(texts) * min(1.0, 0.2 + 2 * step / steps))
            start = rng.randint(0, max(0, reach - batch_size))
            rows = by_length[start : start + batch_size]
        else:
            rows = each_once(step)
        slot = {i: simulated_ids(source, texts[i], rng) if reads else [] for i in rows}
        prompts = [[*speech_llm.before, *slot[i], *speech_llm.after] for i in rows]
        ids = [prompt + targets[i] for prompt, i in zip(prompts, rows, strict=True)]
        labels = [[IGNORED] * len(prompt) + targets[i] for prompt, i in zip(prompts, rows, strict=True)]
        mask = padded([[1] * len(row) for row in ids], 0)
        return {"input_ids": padded(ids, 0), "attention_mask": mask, "labels": padded(labels, IGNORED)}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        return token_loss(model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"])

    def evaluate(step: int, log: list[dict]) -> dict:
        decoder.eval()
        rng = random.Random(0)
        in_slot = [speech_llm.embed(simulated_ids(source, text, rng) if reads else []) for text in dev]
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
        save_every=max(1, steps // 20),
        evaluate=evaluate,
        label="read" if reads else "lm",
        bf16=bf16,
        weight_decay=0.01,
        workers=workers,
    )


@torch.no_grad()
def frame_channel(speech_llm: SpeechLLM, speech: Shards, recordings: int, batch_size: int = 32) -> Channel:
    """What the encoder hears for each letter, learned from so many perturbed utterances; its slots are frames."""
    model = speech_llm.model.eval()
    alphabet = model.config.alphabet
    symbols = alphabet + BLANK
    items = sorted(random.Random(5).sample(speech.items, min(recordings, len(speech.items))))

    def heard() -> Iterator[tuple[str, str, torch.Tensor]]:
        for start in range(0, len(items), batch_size):
            chosen = items[start : start + batch_size]
            samples, lengths = (x.to(speech_llm.device) for x in speech.audio(chosen))
            features, mask = perturbed(samples.float() / 32_768, lengths, seed=start)
            frames, counts = model.encode(features, mask)
            best = model.encoder.ctc_head(frames).argmax(-1).tolist()
            for item, path, row, count in zip(chosen, best, frames.cpu(), counts.tolist(), strict=True):
                yield "".join(symbols[s] for s in path[:count]), item.text, row[:count].clone()

    return learn(heard())


@dataclass(frozen=True)
class AlignSettings:
    """How `align` goes on. Rates are peaks; shares are of the steps or of the batch.

    `encoder_from` and `decoder_from`: after which share of the steps each joins the projector; 1 is never.
    `played`: to each batch of audio come so many times as many texts, in frames pieced together from `recordings`
    perturbed utterances (`channel`), so that the decoder goes on reading what text-only adaptation will show it, and
    meets more sentences than are spoken. `letters`: weight of the encoder's CTC loss, once it joins. `spelling`: weight
    of the mean squared distance between a slot vector and the embeddings of the letters that the CTC head hears in its
    frames, weighted by their posteriors.
    """

    steps: int
    batch_size: int
    shards: int
    projector_rate: float = 2e-3
    encoder_rate: float = 4e-4
    decoder_rate: float = 3e-4
    encoder_from: float = 1.0
    decoder_from: float = 0.2
    played: float = 1.0
    recordings: int = 2_000
    letters: float = 0.3
    spelling: float = 1.0


def align(
    speech_llm: SpeechLLM,
    speech: Shards,
    human: Shards,
    texts: Sequence[str],
    settings: AlignSettings,
    *,
    folder: Path,
    bf16: bool,
    workers: int = 0,
) -> list[dict]:
    """Teach the projector to speak the language that the decoder reads, then encoder and decoder beside it."""
    model, alphabet = speech_llm.model, speech_llm.model.config.alphabet
    speech.grow(settings.shards)
    batches = audio_batches(
        speech,
        human,
        steps=settings.steps,
        batch_size=settings.batch_size,
        shards=settings.shards,
        short=0.2,
        seed=3,
    )
    symbols = symbol_ids(speech_llm)
    letters = torch.tensor([symbols[c] for c in [*alphabet, BLANK]])
    channel = frame_channel(speech_llm, speech, settings.recordings) if settings.played else None
    by_length = sorted(texts, key=len)

    def batch_of(step: int) -> dict:
        rng = random.Random(3_000_017 + step)
        samples, lengths, said = batches(step)
        # As long as what is said, or they would all be padded to the longest.
        first, last = (
            bisect_left(by_length, min(map(len, said)), key=len),
            bisect_right(by_length, max(map(len, said)), key=len),
        )
        count = round(settings.batch_size * settings.played) if last > first else 0
        written = [by_length[rng.randrange(first, last)] for _ in range(count)]
        return {
            "samples": samples,
            "lengths": lengths,
            "labels": padded([ctc_ids(text, alphabet) for text in said], len(alphabet)),
            "label_lengths": torch.tensor([len(text) for text in said]),
            "targets": [speech_llm.target_ids(text) for text in [*said, *written]],
            "played": [channel.play(text, rng) for text in written],
            "step": step,
        }

    def loss_of(_: torch.nn.Module, batch: dict) -> torch.Tensor:
        step, stack = batch["step"], model.config.stack
        joint = step >= settings.encoder_from * settings.steps
        model.encoder.train(joint)
        model.encoder.requires_grad_(joint)
        model.language_model.requires_grad_(step >= settings.decoder_from * settings.steps)
        features, mask = perturbed(batch["samples"].float() / 32_768, batch["lengths"], seed=3_000_017 + step)
        frames, lengths = model.encode(features, mask)
        heard_rows = [row[:n].float() for row, n in zip(frames, lengths.tolist(), strict=True)]
        frames = torch.nn.utils.rnn.pad_sequence([*heard_rows, *batch["played"]], batch_first=True)
        spoken, lengths = lengths, torch.cat([lengths, torch.tensor([len(row) for row in batch["played"]]).to(lengths)])
        vectors = model.projector(frames)
        in_slot = [row[:n] for row, n in zip(vectors, (-(-lengths // stack)).tolist(), strict=True)]
        embeds, places, labels = speech_llm.training_batch(in_slot, batch["targets"])
        loss = token_loss(model(inputs_embeds=embeds, attention_mask=places).logits, labels)

        log_probs = model.encoder.ctc_head(frames).float().log_softmax(-1)
        if joint:
            loss = loss + settings.letters * F.ctc_loss(
                log_probs[: len(spoken)].transpose(0, 1),
                batch["labels"],
                spoken,
                batch["label_lengths"],
                blank=len(alphabet),
                zero_infinity=True,
            )
        if settings.spelling:
            table = model.get_input_embeddings().weight[letters.to(vectors.device)].detach().float()
            heard = log_probs.detach().exp() @ table
            heard = F.pad(heard, (0, 0, 0, -heard.shape[1] % stack)).unflatten(1, (-1, stack)).mean(2)
            inside = torch.arange(heard.shape[1], device=heard.device)[None] < (-(-lengths // stack))[:, None]
            distance = (vectors.float() - heard).square().sum(-1)[inside].mean()
            loss = loss + settings.spelling * distance / table.square().sum(-1).mean()
        return loss

    parts = {"projector": settings.projector_rate, "encoder": settings.encoder_rate}
    parts["language_model"] = settings.decoder_rate
    return fit(
        model,
        batch_of,
        loss_of,
        steps=settings.steps,
        groups=[{"params": list(getattr(model, part).parameters()), "lr": rate} for part, rate in parts.items()],
        warmup=min(50, settings.steps // 10),
        folder=folder,
        save_every=max(1, settings.steps // 20),
        label="align",
        bf16=bf16,
        weight_decay=0.01,
        workers=workers,
    )
