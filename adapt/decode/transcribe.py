"""Transcribe recordings of any length to a file of JSON lines. After a kill, the next call continues the file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from adapt.decode.batches import AudioBatch, Batching, batched, domains_of
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
from adapt.model.features import SAMPLE_RATE, read_audio, read_segments
from adapt.model.speech_llm import SpeechLLM
from adapt.ranks import launched
from adapt.recipe.domain import Transcribe
from adapt.text.manifest import Utterance, durations

_BAR = "{desc:<10} [{bar:20}] {percentage:3.0f}%  {n:.0f} of {total:.0f} s of audio  {remaining} left"

Advance = Callable[[float], None]  # is told the seconds of audio that have been recognised since the last call
# From batches to the rows of each, in the same order: a row `{"text", ...}` for each utterance.
Engine = Callable[[Sequence[AudioBatch], Advance], Generator[list[dict], None, None]]


@dataclass(frozen=True)
class Transcriber:
    """A model with all settings of recognition; calling it is the engine that works in this process."""

    speech_llm: SpeechLLM
    recognise: Recogniser
    batching: Batching

    def __call__(self, batches: Sequence[AudioBatch], advance: Advance) -> Generator[list[dict], None, None]:
        """The rows of each batch."""
        for batch in batches:
            yield self.rows(batch, advance)

    @torch.no_grad()
    def rows(self, batch: AudioBatch, advance: Advance = lambda seconds: None) -> list[dict]:
        """The row of each utterance of a batch. Raises DataError for a recording that cannot be read."""
        utterances = batch.utterances
        if self.batching.domains is not None:
            self.speech_llm.use(utterances[0].domain)
        if not batch.is_long:
            samples = [read_audio(u.audio) for u in utterances]
            rows = self.recognise(samples, [u.phrases for u in utterances])
            advance(batch.seconds)
            return rows
        (utterance,), rows = utterances, []
        for segments in batched(read_segments(utterance.audio, self.batching.max_seconds), self.batching.size):
            rows += self.recognise(segments, [utterance.phrases] * len(segments))
            advance(sum(map(len, segments)) / SAMPLE_RATE)
        return [stitched(rows)]


def transcriber(
    speech_llm: SpeechLLM,
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
) -> Transcriber:
    """The transcriber of a model with these settings.

    decoder: `llm`, `ctc` for CTC hypotheses (`ctc`), whose rows also have a `confidence` if there is no fusion, or
    `first-pass` for the transcripts of an encoder that transcribes. ctc_weight: of the encoder's CTC (`joint`), if the
    base has a CTC head. fusion: a `CtcFusion` for `ctc`, else a `Fusion`; None: none. nbest: above 1, a row also has
    this many hypotheses as `nbest`, with their score from each part of fusion. rescorer: ranks `num_beams` hypotheses;
    None: no rescoring. names: for the prompts; None: none.

    If named adapters are attached, each utterance is decoded with the adapter of its domain; utterances without a
    domain use the unadapted base.
    """
    search = Search(num_beams, max_new_tokens, ctc_weight, nbest, fusion, rescorer, names)
    recognisers: dict[str, Callable[[], Recogniser]] = {
        "llm": lambda: decoder_recogniser(speech_llm, search),
        "ctc": lambda: ctc_recogniser(speech_llm, fusion),
        "first-pass": lambda: first_pass_recogniser(speech_llm, fusion, names),
    }
    domains = domains_of(speech_llm.adapters.peft_config if speech_llm.adapters else ())
    return Transcriber(speech_llm, recognisers[decoder](), Batching(batch_size, speech_llm.max_seconds, domains))


def transcribe(
    speech_llm: SpeechLLM, utterances: Sequence[Utterance], out: Path, *, label: str = "transcribe", **settings
) -> int:
    """Write the transcript of each utterance to `out` in this process. settings: of `transcriber`.

    label, the number that it returns, and what it raises: as `write_transcripts`.
    """
    own = transcriber(speech_llm, **settings)
    return write_transcripts(own, own.batching, utterances, out, label=label)


def write_transcripts(
    engine: Engine, batching: Batching, utterances: Sequence[Utterance], out: Path, *, label: str = "transcribe"
) -> int:
    """Write a line `{"id", "text"}` for each utterance to `out`, shortest recordings first.

    A recording longer than the base takes at once is cut at its quietest points, and the transcripts of its segments
    are joined. engine: recognises the batches. label: of the progress bar.

    Lines that `out` already has stay, so that a killed run continues; returns their number. Several processes of a
    launcher share the work (`adapt.ranks`). Raises DataError with every file that cannot be read, before the first is
    transcribed, and if `out` has other contents than transcripts.
    """
    ranks = launched()
    done = finished(out).union(*map(finished, parts(out)))
    ranks.wait()  # before any of them writes
    waiting = [u for u in utterances if u.id not in done]
    seconds = durations(waiting)
    batching.check(utterances)
    batches = ranks.share(batching.batches(waiting, seconds))
    out.parent.mkdir(parents=True, exist_ok=True)
    total = sum(batch.seconds for batch in batches)
    with (
        part(out, ranks).open("a", encoding="utf-8") as lines,
        tqdm(total=total, desc=label, bar_format=_BAR, file=sys.stderr, disable=not ranks.is_first) as bar,
    ):

        def advance(done_seconds: float) -> None:
            bar.update(min(done_seconds, bar.total - bar.n))  # a file may be longer than its header says

        with closing(engine(batches, advance)) as found:
            for batch, rows in zip(batches, found, strict=True):
                for utterance, row in zip(batch.utterances, rows, strict=True):
                    write_row(lines, utterance.id, row)
                lines.flush()
    ranks.wait()
    if ranks.is_first and parts(out):
        join(out, [u.id for batch in batching.batches(utterances, durations(utterances)) for u in batch.utterances])
    ranks.wait()
    return len(utterances) - len(waiting)
