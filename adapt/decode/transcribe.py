"""Transcribe recordings of any length to a file of JSON lines. After a kill, the next call continues the file."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from adapt.decode.ctc import CtcFusion
from adapt.decode.fusion import Fusion
from adapt.decode.names import NamesInPrompt
from adapt.decode.recognise import (
    Recogniser,
    Search,
    ctc_recogniser,
    decoder_recogniser,
    first_pass_recogniser,
    stitched,
)
from adapt.decode.rescore import Rescorer
from adapt.decode.transcript_file import finished, join, part, parts, write_row
from adapt.errors import DataError
from adapt.model.features import SAMPLE_RATE, read_audio, read_segments
from adapt.model.speech_llm import SpeechLLM
from adapt.ranks import Ranks, launched
from adapt.recipe.domain import Transcribe
from adapt.text.manifest import Utterance, durations

_BAR = "{desc:<10} [{bar:20}] {percentage:3.0f}%  {n:.0f} of {total:.0f} s of audio  {remaining} left"


@torch.no_grad()
def transcribe(
    speech_llm: SpeechLLM,
    utterances: Sequence[Utterance],
    out: Path,
    *,
    decoder: str = "llm",
    num_beams: int = Transcribe.num_beams,
    batch_size: int = Transcribe.batch_size,
    max_new_tokens: int = Transcribe.max_new_tokens,
    ctc_weight: float = Transcribe.ctc_weight,
    fusion: Fusion | CtcFusion | None = None,
    nbest: int = 1,
    rescorer: Rescorer | None = None,
    names: NamesInPrompt | None = None,
    label: str = "transcribe",
) -> int:
    """Write a line `{"id", "text"}` for each utterance to `out`, shortest recordings first.

    A recording longer than the base takes at once is cut at its quietest points, and the transcripts of its segments
    are joined. decoder: `llm`, `ctc` for CTC hypotheses (`ctc`), whose lines also have a `confidence` if there is no
    fusion, or `first-pass` for the transcripts of an encoder that transcribes. ctc_weight: of the
    encoder's CTC (`joint`), if the base has a CTC head. fusion: a `CtcFusion` for `ctc`, else a `Fusion`; None: none.
    nbest: above 1, a line also has this many hypotheses as `nbest`, with their score from each part of fusion.
    rescorer: ranks `num_beams` hypotheses; None: no rescoring. names: for the prompts; None: none. label: of the
    progress bar.

    If named adapters are attached, each utterance is decoded with the adapter of its domain; utterances without a
    domain use the unadapted base.

    Lines that `out` already has stay, so that a killed run continues; returns their number. Several processes of a
    launcher share the work (`adapt.ranks`). Raises DataError with every file that cannot be read, before the first is
    transcribed, and if `out` has other contents than transcripts.
    """
    ranks = launched()
    done = finished(out).union(*map(finished, parts(out)))
    ranks.wait()  # before any of them writes
    seconds = durations([u for u in utterances if u.id not in done])
    by_domain = _has_named_adapters(speech_llm)
    if by_domain:
        _check_domains(speech_llm, utterances)
    waiting = sorted((u for u in utterances if u.id not in done), key=lambda u: (seconds[u.id], u.id))
    short = [u for u in waiting if seconds[u.id] <= speech_llm.max_seconds]
    search = Search(num_beams, max_new_tokens, ctc_weight, nbest, fusion, rescorer, names)
    recognisers: dict[str, Callable[[], Recogniser]] = {
        "llm": lambda: decoder_recogniser(speech_llm, search),
        "ctc": lambda: ctc_recogniser(speech_llm, fusion),
        "first-pass": lambda: first_pass_recogniser(speech_llm, fusion, names),
    }
    recognise = recognisers[decoder]()
    out.parent.mkdir(parents=True, exist_ok=True)
    total = sum(seconds.values()) / ranks.count
    with (
        part(out, ranks).open("a", encoding="utf-8") as lines,
        tqdm(total=total, desc=label, bar_format=_BAR, file=sys.stderr, disable=not ranks.is_first) as bar,
    ):

        def advance(done_seconds: float) -> None:
            bar.update(min(done_seconds, bar.total - bar.n))  # a file may be longer than its header says

        recordings = _Recordings(speech_llm, recognise, batch_size, by_domain, advance, ranks)
        for rows in itertools.chain(recordings.short(short, seconds), recordings.long(waiting[len(short) :])):
            for utterance, row in rows:
                write_row(lines, utterance.id, row)
            lines.flush()
    ranks.wait()
    if ranks.is_first and parts(out):
        seconds = durations(utterances)
        order = sorted(utterances, key=lambda u: (seconds[u.id], u.id))
        split = sum(seconds[u.id] <= speech_llm.max_seconds for u in order)
        order[:split] = sorted(order[:split], key=_domain_of) if by_domain else order[:split]
        join(out, [u.id for u in order])
    ranks.wait()
    return len(utterances) - len(waiting)


def _has_named_adapters(speech_llm: SpeechLLM) -> bool:
    """Whether adapters were attached under names of the user; the name of PEFT is `default`."""
    return speech_llm.adapters is not None and set(speech_llm.adapters.peft_config) != {"default"}


def _domain_of(utterance: Utterance) -> str:
    """The domain as a key for sorting."""
    return utterance.domain or ""


def _check_domains(speech_llm: SpeechLLM, utterances: Sequence[Utterance]) -> None:
    """Raises DataError with every domain that has no adapter."""
    known = set(speech_llm.adapters.peft_config)
    unknown = {u.domain: u.id for u in utterances if u.domain is not None and u.domain not in known}
    if unknown:
        names = ", ".join(sorted(known))
        raise DataError(
            *(f"utterance {i!r}: no adapter for its domain {d!r}; name one of {names}" for d, i in unknown.items())
        )


def _batched(items: Iterable, size: int) -> Iterator[list]:
    """The items in lists of at most `size`."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


Rows = list[tuple[Utterance, dict]]  # each utterance with its row of the transcript file


@dataclass(frozen=True)
class _Recordings:
    """Turns recordings into rows. by_domain: whether each batch is of one domain, and decoded with its adapter.

    advance: called with the seconds of audio that are done. ranks: the processes that share the batches.
    """

    speech_llm: SpeechLLM
    recognise: Recogniser
    batch_size: int
    by_domain: bool
    advance: Callable[[float], None]
    ranks: Ranks

    def short(self, utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> Iterator[Rows]:
        """The rows of each batch of utterances that the base takes at once."""
        grouped = itertools.groupby(sorted(utterances, key=_domain_of), _domain_of)
        groups = (group for _, group in grouped) if self.by_domain else [utterances]
        batches = itertools.chain.from_iterable(_batched(group, self.batch_size) for group in groups)
        for batch in self.ranks.share(list(batches)):
            if self.by_domain:
                self.speech_llm.use(batch[0].domain)
            samples = [read_audio(u.audio) for u in batch]
            yield list(zip(batch, self.recognise(samples, [u.phrases for u in batch]), strict=True))
            self.advance(sum(seconds[u.id] for u in batch))

    def long(self, utterances: Sequence[Utterance]) -> Iterator[Rows]:
        """The row of each utterance that is cut into segments."""
        for utterance in self.ranks.share(utterances):
            rows = []
            if self.by_domain:
                self.speech_llm.use(utterance.domain)
            for batch in _batched(read_segments(utterance.audio, self.speech_llm.max_seconds), self.batch_size):
                rows += self.recognise(batch, [utterance.phrases] * len(batch))
                self.advance(sum(map(len, batch)) / SAMPLE_RATE)
            yield [(utterance, stitched(rows))]
