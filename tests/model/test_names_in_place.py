"""A name takes the place of words that sound like it."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from adapt.decode import names as names_module
from adapt.decode.names import NamesInPrompt, Substitute, first_hypotheses, heard_with_names
from adapt.model import heard as heard_module
from adapt.model.features import pad
from adapt.model.heard import embeddings_and_heard, heard_after_lists, log_odds
from adapt.model.heard_folder import HeardFolder
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.normalise import basic
from tests.model.builders.parts import tiny_whisper, transcribing_llm

LISTS = [("Mariah", "FBI"), ("Adele",), ("U2",)]


@pytest.fixture
def whisper(tmp_path):
    return tiny_whisper(tmp_path / "w")


@pytest.fixture
def speech_llm(whisper):
    return transcribing_llm(whisper)


def test_tokens_of_the_name_take_the_place_of_those_of_the_words(speech_llm, whisper):
    tokenizer = transformers.AutoTokenizer.from_pretrained(whisper)
    projector = speech_llm.model.projector
    tokens = tokenizer.encode(" Who's craft work, the FBI?", add_special_tokens=False)
    assert projector.words(tokens) == ["who's", "craft", "work", "the", "f", "b", "i"]
    for first, last, name, text in (
        (1, 2, "Kraftwerk", " Who's Kraftwerk, the FBI?"),
        (0, 0, "Adele", " Adele craft work, the FBI?"),
        (3, 6, "U2", " Who's craft work, U2?"),
    ):
        assert tokenizer.decode(projector.with_name(tokens, first, last, name)) == text


def test_names_that_sound_most_like_words_and_are_not_among_them(speech_llm, monkeypatch):
    lexicon = Lexicon(
        "x", "", (Entry("Kraftwerk"), Entry("AC/DC", "artist", ("a c d c",)), Entry("Kraft"), Entry("Adele"))
    )
    names = NamesInPrompt(speech_llm, lexicon, 4, basic)
    found = names.substitutes(
        ["is", "craft", "work", "like", "a", "c", "d", "see"], [e.written for e in lexicon.entries]
    )
    assert [one[:3] for one in found] == [("Kraftwerk", 1, 2), ("AC/DC", 4, 6)], "Kraft is there, Adele is far"
    assert found[0].score > found[1].score > 0
    monkeypatch.setattr(names_module, "SUBSTITUTES", 1)
    assert len(names.substitutes(["craft", "work", "a", "c", "d", "see"], ["Kraftwerk", "AC/DC"])) == 1
    assert names.substitutes([], ["Kraftwerk"]) == [] == names.substitutes(["craft"], ["!!!"])


def test_the_evidence_for_given_tokens_is_that_of_the_transcript(speech_llm, noise):
    _, heard = embeddings_and_heard(speech_llm, noise)
    lists = [(0, ("Mariah",)), (2, ("U2",)), (0, ("FBI", "Mariah"))]
    written = heard_after_lists(speech_llm, noise, heard, lists)
    tokens = speech_llm.model.first_pass_tokens([one.heard for one in written])
    odds = log_odds(speech_llm, noise, heard, lists, tokens)
    unread = log_odds(speech_llm, noise, heard, [(i, ()) for i, _ in lists], tokens)
    evidence = [a + b for a, b in zip(odds, unread, strict=True)]
    assert evidence == pytest.approx([one.evidence for one in written], abs=1e-4) and any(evidence)
    given = heard_after_lists(speech_llm, noise, heard, lists, tokens)
    for ours, theirs in zip(given, written, strict=True):
        torch.testing.assert_close(ours.heard, theirs.heard, atol=1e-4, rtol=1e-4)
    plain = speech_llm.model.first_pass_tokens(heard)
    assert log_odds(speech_llm, noise, heard, [(1, ("U2",))], [plain[1]]) == [0.0]
    (odds,) = log_odds(speech_llm, noise, heard, [(0, ("U2",))], [[5] * len(noise[0])])
    assert odds == -math.inf, "more tokens than frames"
    model, end = speech_llm.model.encoder.encoder, speech_llm.model.encoder.encoder.config.first_pass["end"]
    inputs, mask = speech_llm.model.encoder.inputs(*pad(noise))
    (one, *_), prompt = model._encode(inputs, mask.sum(-1)), model.config.first_pass["prompt"]
    texts = [(0, prompt, [*plain[0][:2], token, end], same) for token in (7, 8) for same in (0, 2)]
    whole_a, rest_a, whole_b, rest_b = model._log_probabilities(one, texts)
    assert whole_a - whole_b == pytest.approx(rest_a - rest_b, abs=1e-4) and whole_a != pytest.approx(rest_a)


@pytest.mark.parametrize("bound", [-1e9, 1e9])
def test_the_name_that_audio_and_letters_speak_for_most_is_written_where_no_list_is_believed(
    speech_llm, noise, monkeypatch, tmp_path, bound
):
    names = NamesInPrompt(speech_llm, Lexicon("x", "", tuple(map(Entry, ("Mariah", "FBI", "Adele", "U2")))), 2, basic)
    monkeypatch.setattr(names_module, "SUBSTITUTED", bound)
    monkeypatch.setattr(NamesInPrompt, "second_lists", lambda *_: [])
    monkeypatch.setattr(NamesInPrompt, "are_borne", lambda self, text, own, *_: own == ("Adele",))
    found = [Substitute(name, 0, 0, 1e6 + n) for n, name in enumerate(LISTS[0])]
    monkeypatch.setattr(NamesInPrompt, "substitutes", lambda _, words, own: found if own == LISTS[0] else found[:1])
    speech_llm.heard = HeardFolder(tmp_path / "heard", "tiny")
    _, heard = embeddings_and_heard(speech_llm, noise)
    first = first_hypotheses(speech_llm, [], heard, 0)
    best = heard_with_names(speech_llm, noise, heard, first, LISTS, [None] * 3, names)
    (adele,) = heard_after_lists(speech_llm, noise, heard, [(1, LISTS[1])])
    torch.testing.assert_close(best[1].heard, adele.heard)
    plain = speech_llm.model.first_pass_tokens(heard)
    if bound > 0:
        assert best.keys() == {1}
        return

    def with_name(i, name):
        return speech_llm.model.projector.with_name(plain[i], 0, 0, name)

    both = [with_name(0, name) for name in LISTS[0]]
    odds, unread = (log_odds(speech_llm, noise, heard, [(0, own)] * 2, both) for own in (LISTS[0], ()))
    belief = [a + 0.2 * b + 3.0 * one.score for a, b, one in zip(odds, unread, found, strict=True)]
    likelier = LISTS[0][belief.index(max(belief))]
    tokens = speech_llm.model.first_pass_tokens([best[0].heard, best[2].heard])
    assert tokens == [with_name(0, likelier), with_name(2, "Mariah")]
    with monkeypatch.context() as patched:
        patched.setattr(heard_module, "_inputs", None)
        again = heard_with_names(speech_llm, noise, heard, first, LISTS, [None] * 3, names)
    assert all(torch.equal(best[i].heard, again[i].heard) for i in range(3)), "what was heard is remembered"
