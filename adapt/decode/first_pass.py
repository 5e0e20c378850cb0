"""Fusion in the first pass: of an encoder's alternatives to the tokens of its transcript, those that fusion prefers.

The LLM copies the transcript that stands in its slot, and its own search seldom finds a name that the encoder did not
write. The encoder often has the right token as its second or third choice.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import torch
from transformers.models.whisper.english_normalizer import EnglishNumberNormalizer

from adapt.decode.fusion import Fusion
from adapt.decode.hypothesis import Hypothesis
from adapt.model.speech_llm import SpeechLLM

_in_digits = EnglishNumberNormalizer()  # writes number words as digits
LEAST = -6.0  # log probability of an alternative
CHANGES = 8  # tokens of a transcript that are changed, at most
COPIED = 3.0  # nats that the LLM gives to the transcript of the encoder, besides its own


def fused_tokens(
    speech_llm: SpeechLLM, heard: torch.Tensor, fusion: Fusion | None, phrases: Sequence[str] | None
) -> list[int]:
    """The encoder's tokens of the transcript with the best score for one recording.

    heard: what the encoder heard (`adapt.model.heard`). fusion: None: the transcript that the encoder
    wrote. phrases: of the utterance, or None. The score is the sum of the encoder's log probabilities of its tokens and
    of the weighted parts of fusion that score texts. Tokens are changed one after another, each time the one that
    raises the score most. The encoder's probabilities are those after the tokens that it wrote itself. A transcript
    with words keeps some, and one without gets none.
    """
    model = speech_llm.model
    (written,) = model.first_pass_tokens([heard])
    if not fusion or not model.transcript_ids(written):
        return written
    choices = model.first_pass_choices(heard, LEAST)
    best = (0,) * len(choices)
    texts: dict[tuple[int, ...], float] = {(): -math.inf}

    def tokens_of(transcript: Sequence[int]) -> list[int]:
        return [choices[i][k][0] for i, k in enumerate(transcript)]

    def scores(transcripts: Sequence[tuple[int, ...]]) -> list[float]:
        ids = [tuple(model.transcript_ids(tokens_of(transcript))) for transcript in transcripts]
        if new := [row for row in dict.fromkeys(ids) if row not in texts]:
            texts.update(zip(new, fusion.score_texts(new, phrases), strict=True))
        encoder = (sum(choices[i][k][1] for i, k in enumerate(transcript)) for transcript in transcripts)
        return [score + texts[row] for score, row in zip(encoder, ids, strict=True)]

    (score,) = scores([best])
    for _ in range(CHANGES):
        places = ((i, k) for i, row in enumerate(choices) for k in range(len(row)) if k != best[i])
        changed = [(*best[:i], k, *best[i + 1 :]) for i, k in places]
        if not changed or (highest := max(found := scores(changed))) <= score:
            break
        best, score = changed[found.index(highest)], highest
    return tokens_of(best)


def favouring_copy(hypotheses: Sequence[Hypothesis], copy: str) -> list[Hypothesis]:
    """The LLM's hypotheses, with COPIED nats more for the encoder's transcript `copy`, which is one of them.

    The LLM changes some words because it never saw them, not because it heard others. But it may write numbers in
    English words: hypotheses with the same digits count as copies, too.
    """
    digits = {_joined(copy), _joined(_in_digits(copy))} if has_digits(copy) else ()

    def is_copy(text: str) -> bool:
        return text == copy or (bool(digits) and _joined(_in_digits(text)) in digits)

    return [dataclasses.replace(h, model=h.model + COPIED) if is_copy(h.text) else h for h in hypotheses]


def has_digits(text: str) -> bool:
    """Whether a transcript holds a number in digits."""
    return any(map(str.isdigit, text))


def favouring_heard(hypotheses: Sequence[Hypothesis], odds: Mapping[str, float]) -> list[Hypothesis]:
    """The LLM's hypotheses, with the encoder's opinion on those that read its digits as words.

    Digits do not tell whether "eighty two" or "eight two" was said, but the recording does. odds: by text, how much
    likelier it is in the recording than the encoder's own transcript, in nats; -inf for a text that is too long for it.
    The first hypothesis stays as it is, and each other gets the difference between its odds and those of the first. One
    that is too long is left out; if it is the first, nothing changes.
    """
    first = odds.get(hypotheses[0].text, -math.inf)
    if first == -math.inf:
        return list(hypotheses)
    added = [(h, odds.get(h.text, first) - first) for h in hypotheses]
    return [dataclasses.replace(h, model=h.model + more) for h, more in added if more > -math.inf]


def _joined(text: str) -> str:
    """A text in which neighbouring numbers are one, with the ending of an ordinal and the sign in front.

    >>> _joined("8 2 3 june 2 nd cost $ 1,200")
    '823 june 2nd cost $1200'
    """
    return re.sub(r"(?<=[\d$])[\s,]+(?=\d|(?:st|nd|rd|th)\b)", "", text)
