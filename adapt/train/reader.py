"""Train a decoder from text alone, as a language model and to read its slot."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rapidfuzz.distance import Levenshtein

from adapt.model.speech_llm import BLANK, IGNORED, SpeechLLM, token_loss
from adapt.train.common import mean_loss
from adapt.train.ctc import padded
from adapt.train.fit import fit
from adapt.train.pseudo_audio import Source, simulated_ids, simulated_path, symbol_ids


def text_batches(targets: Sequence[Sequence[int]], *, batch_size: int, seed: int = 1) -> Callable[[int], list[int]]:
    """Indices of targets of like length, a batch a step; every target once before any twice."""
    order = sorted(range(len(targets)), key=lambda i: len(targets[i]))
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def batch_of(step: int) -> list[int]:
        epoch, place = divmod(step, len(groups))
        shuffled = list(range(len(groups)))
        random.Random(seed * 7919 + epoch).shuffle(shuffled)
        return groups[shuffled[place]]

    return batch_of


def heard_behind(path: str, text: str, ends: Sequence[int]) -> list[int]:
    """The frame of a CTC path of `text` in which the letter behind its first `end` letters begins, for each of `ends`.

    The length of the path where nothing is heard behind them. Path and text are aligned by edit distance.

    >>> heard_behind("hhe_y_  yyo__", "hey you", [3, 7])
    [6, 13]
    """
    starts = [i for i, symbol in enumerate(path) if symbol != BLANK and (i == 0 or symbol != path[i - 1])]
    stretches = Levenshtein.opcodes(text, "".join(path[i] for i in starts))
    places = []
    for end in ends:
        stretch = next(found for found in stretches if end <= found.src_end)
        places.append(min(stretch.dest_start + end - stretch.src_start, stretch.dest_end))
    return [[*starts, len(path)][place] for place in places]


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
    seed: int,
    bf16: bool,
    noise: float = 0.12,
    workers: int = 0,
) -> list[dict]:
    """The decoder alone, on text: a language model with an empty slot, or one that `reads` its slot.

    To read, it sees each sentence in its slot spelled letter by letter with noise, the shortest sentences first. In
    the slot too it has a loss: a piece is to be known by the first letter behind it. The loss behind the slot stands
    still for some hundreds of steps and then breaks, sooner so.
    """
    targets = [speech_llm.target_ids(text) for text in texts]
    dev_targets = [speech_llm.target_ids(text) for text in dev]
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    each_once = text_batches(targets, batch_size=batch_size, seed=seed)
    decoder, source = speech_llm.model.language_model, Source(speech_llm, None, noise)
    symbols = symbol_ids(speech_llm) if reads else {}

    def spelled(i: int, rng: random.Random) -> tuple[list[int], list[int]]:
        """A prompt with sentence `i` in its slot, and its labels."""
        text = texts[i]
        path = simulated_path(source, text, rng)
        written = speech_llm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = heard_behind(path, text, [end for _, end in written["offset_mapping"]])
        known = {place + 1: piece for place, piece in zip(places, written["input_ids"], strict=True)}
        ids = [*(symbols[c] for c in path), *speech_llm.after]
        labels = [known.get(place, IGNORED) for place in range(len(ids))]
        return [*speech_llm.before, *ids], [IGNORED] * len(speech_llm.before) + labels

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        if reads:
            reach = int(len(texts) * min(1.0, 0.2 + 2 * step / steps))
            start = rng.randint(0, max(0, reach - batch_size))
            rows = by_length[start : start + batch_size]
        else:
            rows = each_once(step)
        empty = [*speech_llm.before, *speech_llm.after]
        prompts = [spelled(i, rng) if reads else (empty, [IGNORED] * len(empty)) for i in rows]
        ids = [prompt + targets[i] for (prompt, _), i in zip(prompts, rows, strict=True)]
        labels = [known + targets[i] for (_, known), i in zip(prompts, rows, strict=True)]
        mask = padded([[1] * len(row) for row in ids], 0)
        return {"input_ids": padded(ids, 0), "attention_mask": mask, "labels": padded(labels, IGNORED)}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows = speech_llm.rows(batch["input_ids"])
        return token_loss(*speech_llm.labelled(rows, batch["attention_mask"], batch["labels"], through=model))

    def evaluate(step: int, history: list[dict]) -> dict:
        decoder.eval()
        rng = random.Random(0)
        in_slot = [speech_llm.embed(simulated_ids(source, text, rng) if reads else []) for text in dev]
        loss = mean_loss(speech_llm, in_slot, dev_targets)
        decoder.train()
        return {"dev_loss": loss}

    with speech_llm.plain_attention():
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
            seed=seed,
            bf16=bf16,
            weight_decay=0.01,
            workers=workers,
        )
