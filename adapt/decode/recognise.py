"""From a batch of recordings to the rows of a transcript file, by the decoder or by the audio encoder alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import NoRepeatNGramLogitsProcessor

from adapt.decode.beam_search import generate
from adapt.decode.ctc import CtcFusion, greedy_transcripts
from adapt.decode.first_pass import favouring_copy, favouring_heard, fused_tokens, has_digits
from adapt.decode.fusion import Fusion
from adapt.decode.hypothesis import Hypothesis
from adapt.decode.names import NamesInPrompt, borne_by_ctc, first_hypotheses, heard_with_names
from adapt.decode.parts import Batch, OwnPhrases
from adapt.decode.rescore import Rescorer
from adapt.decode.weights import Weights
from adapt.errors import ModelError
from adapt.model.features import SAMPLE_RATE
from adapt.model.heard import embeddings_and_heard, log_odds
from adapt.model.speech_llm import SpeechLLM
from adapt.text.normalise import none

SILENT = 1e-4  # amplitude of the loudest sample of a silent recording, 80 dB below the loudest possible
SHORTEST = 0.05  # seconds of the shortest word
REPEATED = 4  # tokens that no transcript repeats in the same order, where the decoder copies the encoder's transcript

# From recordings (mono, 16 kHz) and the phrases of each to a row `{"text", ...}` of each.
Recogniser = Callable[[Sequence[np.ndarray], OwnPhrases], list[dict]]


def ctc_recogniser(speech_llm: SpeechLLM, fusion: CtcFusion | None) -> Recogniser:
    """The recogniser of CTC hypotheses: by beam search with `fusion`; None: greedy, with a confidence."""

    def recognise(samples: Sequence[np.ndarray], phrases: OwnPhrases) -> list[dict]:
        if fusion is None:
            return [dataclasses.asdict(row) for row in greedy_transcripts(speech_llm, samples)]
        return [{"text": text} for text in fusion.transcripts(samples, phrases)]

    return _of_audible(recognise, {"text": ""} | ({"confidence": None} if fusion is None else {}))


def first_pass_recogniser(speech_llm: SpeechLLM, fusion: Fusion | None, names: NamesInPrompt | None) -> Recogniser:
    """The recogniser of the encoder's own transcripts, for an encoder that transcribes. fusion, names: None: none."""

    def recognise(samples: Sequence[np.ndarray], phrases: OwnPhrases) -> list[dict]:
        _, heard, _ = _heard(speech_llm, samples, phrases, names, 0)
        chosen = [fused_tokens(speech_llm, row, fusion, own) for row, own in zip(heard, phrases, strict=True)]
        return [{"text": speech_llm.tokenizer.decode(speech_llm.model.transcript_ids(t)).strip()} for t in chosen]

    return _of_audible(recognise, {"text": ""})


def is_audible(samples: np.ndarray) -> bool:
    """Whether there can be a word in a recording (mono, 16 kHz): it is neither silent nor too short.

    >>> is_audible(np.zeros(16_000)), is_audible(np.ones(80)), is_audible(np.ones(16_000))
    (False, False, True)
    """
    return len(samples) >= SHORTEST * SAMPLE_RATE and bool(np.abs(samples).max() > SILENT)


def _of_audible(recognise: Recogniser, nothing: dict) -> Recogniser:
    """The recogniser with the row `nothing` for recordings that are not audible."""

    def recognise_audible(samples: Sequence[np.ndarray], phrases: OwnPhrases) -> list[dict]:
        audible = [i for i, recording in enumerate(samples) if is_audible(recording)]
        rows = [dict(nothing) for _ in samples]
        if audible:
            found = _fitting(recognise)([samples[i] for i in audible], [phrases[i] for i in audible])
            for i, row in zip(audible, found, strict=True):
                rows[i] = row
        return rows

    return recognise_audible


def _fitting(recognise: Recogniser) -> Recogniser:
    """The recogniser, which takes recordings by halves where together they do not fit the memory of a GPU.

    Raises ModelError for one that does not fit by itself.
    """

    def recognise_fitting(samples: Sequence[np.ndarray], phrases: OwnPhrases) -> list[dict]:
        try:
            return recognise(samples, phrases)
        except torch.OutOfMemoryError:
            if len(samples) == 1:
                problem = f"a recording of {len(samples[0]) / SAMPLE_RATE:.0f} s does not fit the memory of the GPU"
                raise ModelError(f"{problem}; lower num_beams or choose a smaller dtype") from None
        torch.cuda.empty_cache()
        middle = len(samples) // 2
        halves = (slice(None, middle), slice(middle, None))
        return [row for half in halves for row in recognise_fitting(samples[half], phrases[half])]

    return recognise_fitting


@dataclass(frozen=True)
class Search:
    """The settings of beam search with the decoder.

    ctc_weight: of the encoder's CTC, if the base has a CTC head. nbest: hypotheses in a row. fusion: None: the decoder
    alone. rescorer: ranks `num_beams` hypotheses; None: no rescoring. names: None: no names in the prompt. scored:
    whether a row has its n-best list even if `nbest` is 1.
    """

    num_beams: int
    max_new_tokens: int
    ctc_weight: float
    nbest: int = 1
    fusion: Fusion | None = None
    rescorer: Rescorer | None = None
    names: NamesInPrompt | None = None
    scored: bool = False

    @property
    def keeps_nbest(self) -> bool:
        """Whether a row has an n-best list."""
        return self.nbest > 1 or self.scored


def _heard(
    speech_llm: SpeechLLM,
    samples: Sequence[np.ndarray],
    phrases: OwnPhrases,
    names: NamesInPrompt | None,
    most: int,
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[tuple[str, ...]]]:
    """Audio embeddings of each recording, what else was heard of it (`adapt.model.heard`), and names for its prompt.

    An encoder that transcribes reads the names itself. most: tokens of a first hypothesis.
    """
    slots, heard = embeddings_and_heard(speech_llm, samples)
    lists = [()] * len(samples)
    if names:
        first = first_hypotheses(speech_llm, slots, heard, most)
        lists = names.lists(first, phrases)
        if speech_llm.transcribes:
            for i, listed in heard_with_names(speech_llm, samples, heard, first, lists, phrases, names).items():
                slots[i], heard[i] = listed.slot, listed.heard
    return slots, heard, lists


def decoder_recogniser(speech_llm: SpeechLLM, search: Search) -> Recogniser:
    """The recogniser of beam search with the decoder and the parts of fusion."""
    count = max(search.nbest, search.num_beams) if search.rescorer else search.nbest
    ctc_weight = search.ctc_weight if speech_llm.has_ctc else 0.0
    fusion, nothing = search.fusion, {"text": ""} | ({"nbest": []} if search.keeps_nbest else {})
    if search.keeps_nbest or count > 1 or ctc_weight or speech_llm.transcribes:
        fusion = fusion or Fusion(speech_llm, Weights(), normalise=none)
        fusion = fusion.with_weights(dataclasses.replace(fusion.weights, ctc=ctc_weight))

    def recognise(samples: Sequence[np.ndarray], phrases: OwnPhrases) -> list[dict]:
        slots, heard, lists = _heard(speech_llm, samples, phrases, search.names, search.max_new_tokens)
        # Where the encoder hears nothing, the decoder, which has to write something, would invent words.
        if speech_llm.transcribes:
            speaking = [i for i, slot in enumerate(slots) if len(slot)]
        elif speech_llm.has_ctc:
            speaking = [i for i, row in enumerate(heard) if (row.argmax(-1) < row.shape[1] - 1).any()]
        else:
            speaking = list(range(len(slots)))
        rows, copies = [dict(nothing) for _ in samples], None
        if speaking:
            inputs = (samples, slots, heard, phrases, lists)
            samples, slots, heard, phrases, lists = ([values[i] for i in speaking] for values in inputs)
            if speech_llm.transcribes:
                lists = [()] * len(speaking)  # its encoder has read them
                chosen = [fused_tokens(speech_llm, r, search.fusion, p) for r, p in zip(heard, phrases, strict=True)]
                copies = list(map(speech_llm.model.transcript_ids, chosen))
                if search.fusion:
                    slots = list(map(speech_llm.model.first_pass_slot, heard, chosen))
            found = decoded(slots, heard, phrases, lists, copies, samples)
            if any(lists):
                found = without_leaks(found, slots, heard, phrases, lists)
            for i, row in zip(speaking, found, strict=True):
                rows[i] = row
        return rows

    def without_leaks(
        found: list[dict],
        slots: Sequence[torch.Tensor],
        heard: Sequence[torch.Tensor],
        phrases: OwnPhrases,
        lists: Sequence[Sequence[str]],
    ) -> list[dict]:
        """The rows, those without names where names are all, were not used, or are not borne by the audio."""
        places = [i for i, own in enumerate(lists) if own]
        leaks = [search.names.is_list(found[i]["text"], lists[i]) for i in places]
        if not speech_llm.has_ctc:  # then only the list itself is recognised
            places, leaks = ([x for x, leak in zip(xs, leaks, strict=True) if leak] for xs in (places, leaks))
        if not places:
            return found
        plain = decoded(*([values[i] for i in places] for values in (slots, heard, phrases)), [()] * len(places))
        for i, leak, row in zip(places, leaks, plain, strict=True):
            text, without = found[i]["text"], row["text"]
            used = search.names.letters_used(text, lists[i], without)
            if leak or not (used and borne_by_ctc(speech_llm, heard[i], text, without)):
                found[i] = row
        return found

    def decoded(
        slots: Sequence[torch.Tensor],
        heard: Sequence[torch.Tensor],
        phrases: OwnPhrases,
        lists: Sequence[Sequence[str]],
        copies: Sequence[Sequence[int]] | None = None,
        samples: Sequence[np.ndarray] = (),
    ) -> list[dict]:
        """The row of each utterance. copies: the encoder's transcripts of `samples` in tokens; None: it writes none."""
        prompts = [speech_llm.prompt(slot, own) for slot, own in zip(slots, lists, strict=True)]
        posteriors = heard if fusion and fusion.weights.ctc else ()
        processors = fusion.processors(Batch(phrases, posteriors)) if fusion else ()
        if speech_llm.transcribes:  # a decoder that copies its slot may go round in circles
            processors = [*processors, NoRepeatNGramLogitsProcessor(REPEATED)]
        written = list(map(speech_llm.decode, copies or ()))
        most = search.num_beams if any(map(has_digits, written)) else count
        nbest = generate(speech_llm, prompts, search.num_beams, search.max_new_tokens, processors, max(most, count))
        for i, own in enumerate(map(list, copies or ())):
            best = nbest[i] if has_digits(written[i]) else nbest[i][:count]
            nbest[i] = [*best, *([own] * (own not in best))]
        found: list[list[Hypothesis]] = []
        for i, (prompt, tokens) in enumerate(zip(prompts, nbest, strict=True)):
            if len(tokens) == 1 and not search.keeps_nbest:
                found.append([Hypothesis(speech_llm.decode(tokens[0]), len(tokens[0]), 0.0)])
                continue
            utterance = Batch(phrases[i : i + 1], posteriors[i : i + 1])
            (hypotheses,) = fusion.score_hypotheses([prompt], [tokens], utterance)
            found.append(_sorted(favouring_copy(hypotheses, written[i]), fusion.weights) if copies else hypotheses)
        if copies:
            for i, odds in _odds_of_readings(speech_llm, samples, heard, written, found).items():
                found[i] = _sorted(favouring_heard(found[i], odds), fusion.weights)
        rows = []
        for hypotheses in found:
            if len(hypotheses) == 1 and not search.keeps_nbest:
                rows.append({"text": hypotheses[0].text})
                continue
            ranked = _ranked(hypotheses, fusion.weights, search.rescorer)
            rows.append({"text": ranked[0]["text"]} | ({"nbest": ranked[: search.nbest]} if search.keeps_nbest else {}))
        return rows

    return _of_audible(recognise, nothing)


def _sorted(hypotheses: Sequence[Hypothesis], weights: Weights) -> list[Hypothesis]:
    """The hypotheses, that with the highest score first."""
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score(weights))


def _odds_of_readings(
    speech_llm: SpeechLLM,
    samples: Sequence[np.ndarray],
    heard: Sequence[torch.Tensor],
    written: Sequence[str],
    found: Sequence[Sequence[Hypothesis]],
) -> dict[int, dict[str, float]]:
    """The encoder's log odds of hypotheses without digits, by text and by the number of the recording.

    They are those of recordings of which the encoder wrote digits, and the best of several hypotheses holds none.
    samples, heard: of each recording, as `log_odds` takes them. written: the encoder's transcripts. found: hypotheses.
    """
    read = []
    for i, hypotheses in enumerate(found):
        words = dict.fromkeys(h.text for h in hypotheses if not has_digits(h.text))
        if has_digits(written[i]) and hypotheses[0].text in words and len(words) > 1:
            read += [(i, text) for text in words]
    if not read:
        return {}
    tokens = [speech_llm.model.projector.text_tokens(text) for _, text in read]
    odds: dict[int, dict[str, float]] = {}
    for (i, text), own in zip(
        read, log_odds(speech_llm, samples, heard, [(i, ()) for i, _ in read], tokens), strict=True
    ):
        odds.setdefault(i, {})[text] = own
    return odds


def _ranked(hypotheses: Sequence[Hypothesis], weights: Weights, rescorer: Rescorer | None) -> list[dict]:
    """Hypotheses with their `score`, in the order of the search or of the rescorer."""
    if rescorer is None:
        return [{**h.to_json(), "score": h.score(weights)} for h in hypotheses]
    ranked = rescorer.rank(hypotheses, weights)
    return [{**h.to_json(), "score": score, "rescore": log} for score, log, h in ranked]


def stitched(rows: Sequence[dict]) -> dict:
    """The row of a recording from those of its segments. The confidence is their mean, weighted by letters.

    >>> stitched([{"text": "one", "confidence": 0.9}, {"text": "t", "confidence": 0.5}])
    {'text': 'one t', 'confidence': 0.8}
    """
    with_text = [segment for segment in rows if segment["text"]]
    row = {"text": " ".join(segment["text"] for segment in with_text)}
    if "confidence" in rows[0]:
        letters = sum(len(segment["text"]) for segment in with_text)
        weighted = sum(len(segment["text"]) * segment["confidence"] for segment in with_text)
        row["confidence"] = round(weighted / letters, 4) if letters else None
    if "nbest" in rows[0]:
        row["segments"] = [segment["nbest"] for segment in rows]
    return row
