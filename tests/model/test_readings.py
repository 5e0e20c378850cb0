"""How the decoder reads the digits of a first pass is what the recording says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adapt.decode import first_pass as decode_first_pass
from adapt.decode import recognise
from adapt.decode.first_pass import favouring_heard
from adapt.decode.hypothesis import Hypothesis
from adapt.decode.internal_lm import sequence_scores
from adapt.model.heard import embeddings_and_heard, log_odds
from tests.model.builders.parts import tiny_whisper, transcribing_llm

LONG, SHORT = "line eighty two", "line eight two"


@pytest.fixture
def speech_llm(tmp_path):
    return transcribing_llm(tiny_whisper(tmp_path / "w"))


def ids(speech_llm, text: str) -> list[int]:
    return speech_llm.tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture
def decode(speech_llm, monkeypatch):
    """Decodes two recordings, of which the first pass wrote `copies`, and the LLM finds the texts LONG and SHORT."""
    monkeypatch.setattr(decode_first_pass, "COPIED", -100.0)  # no hypothesis is a copy of the first pass

    def rows(copies: list[str], nbest: int) -> list[dict]:
        own = [ids(speech_llm, copy) for copy in copies]
        written = iter(own)
        monkeypatch.setattr(speech_llm.model, "transcript_ids", lambda tokens: next(written))
        monkeypatch.setattr(speech_llm.model, "project", lambda *_: list(map(speech_llm.embed, own)))
        found = [ids(speech_llm, text) for text in (LONG, SHORT)]
        monkeypatch.setattr(recognise, "generate", lambda *arguments: [found[: arguments[-1]]] * len(copies))
        return recognise.decoder_recogniser(speech_llm, recognise.Search(4, 30, 0.0, nbest))(NOISE, [None] * 2)

    return rows


NOISE = [np.random.default_rng(n).standard_normal(16_000 + 8_000 * n).astype(np.float32) for n in range(2)]


@pytest.mark.parametrize("nbest", [1, 3])
def test_the_reading_counts_that_is_likelier_in_the_recording(speech_llm, decode, monkeypatch, nbest):
    _, heard = embeddings_and_heard(speech_llm, NOISE)
    tokens = [speech_llm.model.projector.text_tokens(text) for text in (LONG, SHORT)]
    odds = log_odds(speech_llm, NOISE, heard, [(1, ()), (1, ())], tokens)
    assert math.isfinite(odds[0]) and abs(odds[0] - odds[1]) > 0.1
    copy = ids(speech_llm, "line 82")
    prompt, texts = speech_llm.prompt(speech_llm.embed(copy)), [ids(speech_llm, text) for text in (LONG, SHORT)]
    scores = sequence_scores(speech_llm, [prompt] * 2, texts).tolist()
    for sign in (1, -1):
        monkeypatch.setattr(recognise, "log_odds", lambda *a, s=sign: [s * one for one in log_odds(*a)])
        plain = {
            text: (score - 100) / (len(own) + 1) for text, score, own in zip((LONG, SHORT), scores, texts, strict=True)
        }
        first = max(plain, key=plain.get)
        added = dict(zip((LONG, SHORT), (sign * one for one in odds), strict=True))
        heard_too = {t: plain[t] + (added[t] - added[first]) / (len(ids(speech_llm, t)) + 1) for t in plain}
        row = decode(["line one", "line 82"], nbest)[1]
        assert row["text"] == max(heard_too, key=heard_too.get)
        if nbest > 1:
            assert [h["score"] for h in row["nbest"][:2]] == pytest.approx(sorted(heard_too.values(), reverse=True))


def test_recordings_without_digits_are_not_weighed(decode, monkeypatch):
    monkeypatch.setattr(recognise, "log_odds", None)
    assert all(row["text"] for row in decode(["line one", "line two"], 1))


def test_hypotheses_with_digits_and_those_that_cannot_be_read_stay():
    names = ("eighty two", "eight two", "82")
    hypotheses = [Hypothesis(text, 3, model) for text, model in zip(names, (-1.0, -2.0, -3.0), strict=True)]
    found = favouring_heard(hypotheses, {"eighty two": -7.0, "eight two": -5.5})
    assert [h.model for h in found] == [-1.0, -0.5, -3.0]
    assert favouring_heard(hypotheses, {"eighty two": -math.inf, "eight two": -5.5}) == hypotheses
    read = favouring_heard(hypotheses, {"eighty two": -7.0, "eight two": -math.inf})
    assert [h.text for h in read] == ["eighty two", "82"]
