"""Train a decoder on text alone: as a language model, and to read simulated letters in its slot."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rapidfuzz.distance import Levenshtein

from adapt.model.encoders import BLANK
from adapt.model.speech_llm import IGNORED, SpeechLLM
from adapt.ranks import launched
from adapt.recipe.base import Llm
from adapt.train.common import by_length, mean_loss, mean_over_tokens
from adapt.train.ctc import padded
from adapt.train.fit import fit
from adapt.train.pseudo_audio import PseudoAudioInputs, simulated_ids, simulated_path, symbol_ids

NOISE = 0.12  # mean share of the letters in the slot that are changed at random

LabelledPrompt = tuple[list[int], list[int]]  # token ids of a prompt with letters in its slot, and their labels


def train_reader(
    speech_llm: SpeechLLM,
    texts: Sequence[str],
    dev: Sequence[str],
    settings: Llm,
    *,
    reads: bool,
    folder: Path,
    seed: int,
    bf16: bool,
    noise: float = NOISE,
    workers: int = 0,
) -> list[dict]:
    """Train the decoder on sentences; in place. Returns the log, with rows of `dev_loss`.

    reads: False trains a language model, with an empty slot, for `lm_steps`. True trains it for `read_steps` with each
    sentence in its slot, letter by letter and with `noise`, the shortest sentences first. folder, seed, bf16, workers:
    as in `fit`.
    """
    steps, rate = (settings.read_steps, settings.read_rate) if reads else (settings.lm_steps, settings.lm_rate)
    decoder, inputs = speech_llm.model.language_model, PseudoAudioInputs(speech_llm, noise)

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        own, weight = launched().rows(len(batch["labels"]))
        ids, mask, labels = (batch[key][own] for key in ("input_ids", "attention_mask", "labels"))
        places = (labels[:, 1:] != IGNORED).nonzero().T
        logits = speech_llm.logits_at(speech_llm.rows(ids), places, mask, through=model)
        predicted = labels[:, 1:][tuple(places)]
        loss = mean_over_tokens(logits, predicted, int((batch["labels"][:, 1:] != IGNORED).sum()))
        return loss if weight else 0 * loss

    dev_targets = [speech_llm.target_ids(text) for text in dev]

    def evaluate(step: int, history: list[dict]) -> dict:
        decoder.eval()
        rng = random.Random(0)
        embeddings = [speech_llm.embed(simulated_ids(inputs, text, rng) if reads else []) for text in dev]
        loss = mean_loss(speech_llm, embeddings, dev_targets)
        decoder.train()
        return {"dev_loss": loss}

    with speech_llm.plain_attention():
        return fit(
            decoder,
            _batches(inputs, texts, steps, settings.batch_size, seed, reads),
            loss_of,
            steps=steps,
            groups=[{"params": list(decoder.parameters()), "lr": rate}],
            warmup=min(100, steps // 10),
            folder=folder,
            save_every=max(1, steps // 20),
            evaluate=evaluate,
            label="read" if reads else "lm",
            shared=True,
            seed=seed,
            bf16=bf16,
            weight_decay=0.01,
            workers=workers,
        )


def _batches(
    inputs: PseudoAudioInputs, texts: Sequence[str], steps: int, batch_size: int, seed: int, reads: bool
) -> Callable[[int], dict]:
    """The function that returns a batch of padded token ids and labels: prompts, each followed by its sentence.

    reads: whether the slot has the letters of the sentence, or is empty.
    """
    speech_llm = inputs.speech_llm
    targets = [speech_llm.target_ids(text) for text in texts]
    shortest_first = by_length(texts)
    shuffled = text_batches(targets, batch_size=batch_size, seed=seed)
    spelled = _spelled_prompts(inputs) if reads else None
    empty = [*speech_llm.before, *speech_llm.after]

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        if reads:
            reach = int(len(texts) * min(1.0, 0.2 + 2 * step / steps))
            start = rng.randint(0, max(0, reach - batch_size))
            rows = shortest_first[start : start + batch_size]
        else:
            rows = shuffled(step)
        prompts = [spelled(texts[i], rng) if reads else (empty, [IGNORED] * len(empty)) for i in rows]
        ids = [prompt + targets[i] for (prompt, _), i in zip(prompts, rows, strict=True)]
        labels = [prompt_labels + targets[i] for (_, prompt_labels), i in zip(prompts, rows, strict=True)]
        mask = padded([[1] * len(row) for row in ids], 0)
        return {"input_ids": padded(ids, 0), "attention_mask": mask, "labels": padded(labels, IGNORED)}

    return batch_of


def _spelled_prompts(inputs: PseudoAudioInputs) -> Callable[[str, random.Random], LabelledPrompt]:
    """The function that returns a prompt with a sentence in its slot, letter by letter.

    The slot has labels too: each token of the sentence is predicted at the frame of the first letter after it. The loss
    of the sentence stays flat for some hundreds of steps and then falls; with these labels it falls sooner.
    """
    speech_llm, symbols = inputs.speech_llm, symbol_ids(inputs.speech_llm)

    def prompt_of(text: str, rng: random.Random) -> LabelledPrompt:
        path = simulated_path(inputs, text, rng)
        tokens = speech_llm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = frames_after(path, text, [end for _, end in tokens["offset_mapping"]])
        token_at = {place + 1: token for place, token in zip(places, tokens["input_ids"], strict=True)}
        ids = [*(symbols[c] for c in path), *speech_llm.after]
        labels = [token_at.get(place, IGNORED) for place in range(len(ids))]
        return [*speech_llm.before, *ids], [IGNORED] * len(speech_llm.before) + labels

    return prompt_of


def text_batches(targets: Sequence[Sequence[int]], *, batch_size: int, seed: int = 1) -> Callable[[int], list[int]]:
    """The function that returns the batch of a step: indices of targets of similar length, each once in an epoch."""
    order = by_length(targets)
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def batch_of(step: int) -> list[int]:
        epoch, place = divmod(step, len(groups))
        shuffled = list(range(len(groups)))
        random.Random(seed * 7919 + epoch).shuffle(shuffled)
        return groups[shuffled[place]]

    return batch_of


def frames_after(path: str, text: str, ends: Sequence[int]) -> list[int]:
    """For each of `ends`, the frame of a CTC path of `text` in which the letter after `text[:end]` begins.

    It is the length of the path if no letter follows. Path and text are aligned by edit distance.

    >>> frames_after("hhe_y_  yyo__", "hey you", [3, 7])
    [6, 13]
    """
    starts = [i for i, symbol in enumerate(path) if symbol != BLANK and (i == 0 or symbol != path[i - 1])]
    stretches = Levenshtein.opcodes(text, "".join(path[i] for i in starts))
    places = []
    for end in ends:
        stretch = next(stretch for stretch in stretches if end <= stretch.src_end)
        places.append(min(stretch.dest_start + end - stretch.src_start, stretch.dest_end))
    return [[*starts, len(path)][place] for place in places]
