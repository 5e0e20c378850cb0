"""Transcribe real audio: it takes the slot, the soft prompt is dropped, beam search writes the transcript."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from adapt.decode.beams import branch
from adapt.decode.ctc import CtcFusion, heard
from adapt.decode.fusion import Fusion
from adapt.decode.rescore import Rescorer
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.model.features import SAMPLE_RATE, read_audio, read_segments
from adapt.model.speech_llm import SpeechLLM
from adapt.text.corpus import Utterance, durations, read_bytes
from adapt.text.normalise import none

KEYS = {"id", "text", "confidence", "nbest", "segments"}  # of a line that is written here


@torch.no_grad()
def generate(
    speech_llm: SpeechLLM,
    prompts: Sequence[torch.Tensor],
    num_beams: int = 4,
    max_new_tokens: int = 120,
    processors: Sequence[LogitsProcessor] = (),
    nbest: int = 1,
) -> list[list[list[int]]]:
    """Beam search after prompts `[length, width]` that hold audio; the `nbest` best of each, in tokens.

    `generate` would run the prompt once a beam. Here it runs once an utterance (`beams`). processors: what is fused
    into the search (`fusion`).
    """
    lengths = [len(p) for p in prompts]
    longest = max(lengths)
    hidden = prompts[0].shape[1]
    # Padding stands on the left, so that every row's next token is in the same column.
    embeds = torch.stack([torch.cat([p.new_zeros(longest - len(p), hidden), p]) for p in prompts])
    columns = torch.arange(longest, device=embeds.device)[None]
    mask = (columns >= longest - torch.tensor(lengths, device=embeds.device)[:, None]).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    generator, ends = speech_llm.generator, speech_llm.ends
    cache = speech_llm.new_cache()
    speech_llm.forward(embeds[:, :-1], mask[:, :-1], positions[:, :-1], cache, keep=1)
    branch(cache, torch.arange(len(prompts), device=embeds.device).repeat_interleave(num_beams))
    tokens = generator.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        past_key_values=cache,
        num_beams=num_beams,
        num_return_sequences=nbest,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList(processors),
    )
    rows = [list(itertools.takewhile(lambda token: token not in ends, row)) for row in tokens.tolist()]
    return [rows[i : i + nbest] for i in range(0, len(rows), nbest)]


def transcribe(
    speech_llm: SpeechLLM,
    utterances: Sequence[Utterance],
    out: Path,
    *,
    decoder: str = "llm",
    num_beams: int = 4,
    batch_size: int = 16,
    max_new_tokens: int = 120,
    ctc_weight: float = 0.1,
    fusion: Fusion | CtcFusion | None = None,
    nbest: int = 1,
    rescorer: Rescorer | None = None,
    label: str = "transcribe",
) -> int:
    """Write a line `{"id", "text"}` for each utterance to `out`, shortest audio first.

    What is longer than the base was trained for is cut where it is quietest, and its parts are stitched. `decoder`:
    `llm`, or `ctc` for the encoder's own path (`ctc`), whose lines hold a `confidence` too where it is greedy.
    ctc_weight: of the encoder's CTC beside the decoder in the search (`joint`), where the base has one. fusion: what is
    fused into the search; of the decoder's kind. nbest above 1: a line holds the best hypotheses as `nbest`,
    with what each part says of them. rescorer: puts as many as there are beams in its own order.

    With named adapters attached, that of an utterance's domain hears it, and the base alone what has none.

    Lines that are there already stay, so that a killed run goes on; returns how many. Raises `DataError` with every
    file that cannot be read, before the first is transcribed, and where `out` holds other things than transcripts.
    """
    done = _finished(out)
    seconds = durations([u for u in utterances if u.id not in done])
    if isinstance(fusion, Fusion):
        fusion.check(u.phrases for u in utterances)
    # A name that somebody gave, not PEFT's own.
    by_domain = speech_llm.adapters is not None and set(speech_llm.adapters.peft_config) != {"default"}
    if by_domain:
        _check_domains(speech_llm, utterances)
    waiting = sorted((u for u in utterances if u.id not in done), key=lambda u: (seconds[u.id], u.id))
    longest = speech_llm.max_seconds
    whole = [u for u in waiting if seconds[u.id] <= longest]
    form = "{desc:<10} [{bar:20}] {percentage:3.0f}%  {n:.0f} of {total:.0f} s of audio  {remaining} left"
    if decoder == "ctc":
        hear = functools.partial(_hear_ctc, speech_llm, fusion)
    else:
        listed = max(nbest, num_beams) if rescorer else nbest
        joint = ctc_weight if speech_llm.has_ctc else 0.0
        if listed > 1 or joint:
            fusion = fusion or Fusion(speech_llm, Weights(), normalise=none)
            fusion = fusion.weighted(replace(fusion.weights, ctc=joint))
        hear = functools.partial(_hear, speech_llm, num_beams, max_new_tokens, fusion, nbest, rescorer, listed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        out.open("a", encoding="utf-8") as lines,
        tqdm(total=sum(seconds.values()), desc=label, bar_format=form, file=sys.stderr) as bar,
    ):

        def write(utterance: Utterance, row: dict) -> None:
            lines.write(json.dumps({"id": utterance.id, **row}, ensure_ascii=False) + "\n")

        def heard_of(more: float) -> None:
            bar.update(min(more, bar.total - bar.n))  # a header may say less than there is

        groups = itertools.groupby(sorted(whole, key=_domain_of), _domain_of) if by_domain else [("", whole)]
        for batch in itertools.chain.from_iterable(_batched(group, batch_size) for _, group in groups):
            if by_domain:
                speech_llm.use(batch[0].domain)
            audio = [read_audio(u.audio) for u in batch]
            for utterance, row in zip(batch, hear(audio, [u.phrases for u in batch]), strict=True):
                write(utterance, row)
            lines.flush()
            heard_of(sum(seconds[u.id] for u in batch))
        for utterance in waiting[len(whole) :]:
            rows = []
            if by_domain:
                speech_llm.use(utterance.domain)
            for batch in _batched(read_segments(utterance.audio, longest), batch_size):
                rows += hear(batch, [utterance.phrases] * len(batch))
                heard_of(sum(map(len, batch)) / SAMPLE_RATE)
            write(utterance, _stitched(rows))
            lines.flush()
    return len(utterances) - len(waiting)


def _domain_of(utterance: Utterance) -> str:
    return utterance.domain or ""


def _check_domains(speech_llm: SpeechLLM, utterances: Sequence[Utterance]) -> None:
    known = set(speech_llm.adapters.peft_config)
    unknown = {u.domain: u.id for u in utterances if u.domain is not None and u.domain not in known}
    if unknown:
        listed = ", ".join(sorted(known))
        raise DataError(
            *(f"utterance {i!r}: no adapter for its domain {d!r}; there is {listed}" for d, i in unknown.items())
        )


def _batched(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


Phrases = Sequence[Sequence[str] | None]  # of each utterance


def _hear_ctc(
    speech_llm: SpeechLLM, fusion: CtcFusion | None, audio: Sequence[np.ndarray], phrases: Phrases
) -> list[dict]:
    """`{"text", "confidence"}` of each recording."""
    if fusion is None:
        return [asdict(row) for row in heard(speech_llm, audio)]
    return [{"text": text} for text in fusion.heard(audio, phrases)]


def _hear(
    speech_llm: SpeechLLM,
    num_beams: int,
    max_new_tokens: int,
    fusion: Fusion | None,
    nbest: int,
    rescorer: Rescorer | None,
    listed: int,
    audio: Sequence[np.ndarray],
    phrases: Phrases,
) -> list[dict]:
    """`{"text"}` of each recording, with its `nbest` where they are asked for; `listed` hypotheses are looked at."""
    if fusion and fusion.weights.ctc:
        slots, posteriors = speech_llm.embeddings_and_posteriors(audio)
    else:
        slots, posteriors = speech_llm.audio_embeddings(audio), []
    prompts = [speech_llm.prompt(slot) for slot in slots]
    processors = fusion.processors(phrases, posteriors) if fusion else ()
    found = generate(speech_llm, prompts, num_beams, max_new_tokens, processors, listed)
    if listed == 1:
        return [{"text": speech_llm.decode(best)} for best, *_ in found]
    rows = []
    for i, (prompt, own, tokens) in enumerate(zip(prompts, phrases, found, strict=True)):
        judged = fusion.judged([prompt] * len(tokens), tokens, [own] * len(tokens), posteriors[i : i + 1])
        if rescorer:
            ranked = rescorer.rescored(judged, fusion.weights)
            told = [{**asdict(h), "score": score, "rescore": alone} for score, alone, h in ranked]
        else:
            told = [{**asdict(h), "score": h.score(fusion.weights)} for h in judged]
        rows.append({"text": told[0]["text"]} | ({"nbest": told[:nbest]} if nbest > 1 else {}))
    return rows


def _stitched(rows: Sequence[dict]) -> dict:
    """One row of those of a recording's stretches; their confidences weighted by their letters.

    >>> _stitched([{"text": "one", "confidence": 0.9}, {"text": "t", "confidence": 0.5}])
    {'text': 'one t', 'confidence': 0.8}
    """
    said = [row for row in rows if row["text"]]
    whole = {"text": " ".join(row["text"] for row in said)}
    if "confidence" in rows[0]:
        letters = sum(len(row["text"]) for row in said)
        weighted = sum(len(row["text"]) * row["confidence"] for row in said)
        whole["confidence"] = round(weighted / letters, 4) if letters else None
    if "nbest" in rows[0]:
        whole["segments"] = [row["nbest"] for row in rows]
    return whole


def _finished(out: Path) -> set[str]:
    """Ids of the whole lines of `out`; a line that a kill cut short is taken off.

    Raises DataError, and leaves the file as it is, where it holds anything but transcripts.
    """
    if not out.exists():
        return set()
    whole, newline, cut = read_bytes(out).rpartition(b"\n")
    try:
        rows = [json.loads(line) for line in whole.split(b"\n") if line.strip()]
    except ValueError:
        rows = [None]
    ours = all(isinstance(row, dict) and {"id", "text"} <= row.keys() <= KEYS for row in rows)
    if not ours or not b'{"id": '.startswith(cut[:7]):
        raise DataError(f"{out}: holds other things than transcripts; name another file to write")
    if cut:
        os.truncate(out, len(whole) + len(newline))
    return {row["id"] for row in rows}
