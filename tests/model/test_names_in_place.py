"""A name takes the place of words that sound like it."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from adapt.decode import names as names_module
from adapt.decode.names import NamesInPrompt, Substitute, first_hypotheses, heard_with_names
from adapt.model import heard as heard_module
from adapt.model import transcribing_whisper
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
    assert [word.text for word in projector.whole_words(tokens)] == ["who's", "craft", "work", "the", "f", "b", "i"]
    for first, last, name, text in (
        (1, 2, "Kraftwerk", " Who's Kraftwerk, the FBI?"),
        (0, 0, "Adele", " Adele craft work, the FBI?"),
        (3, 6, "U2", " Who's craft work, U2?"),
    ):
        assert tokenizer.decode(projector.with_name(tokens, first, last, name)) == text


def test_words_that_share_a_token_are_replaced_together(speech_llm):
    projector = speech_llm.model.projector
    for number, token in enumerate((b" in", b" US", b" play", b" \xd0", b"\x96\xd0\xb0", b"5"), 100):
        projector.letters[number] = torch.tensor([*token, *[0] * (24 - len(token))])
    words = projector.whole_words([100, 101, 102, 103, 104, 105])
    assert [tuple(word) for word in words] == [("in", 0, 0), ("u s", 1, 1), ("play", 2, 2), ("жа", 3, 4), ("5", 5, 5)]
    assert projector.with_name([100, 101, 102, 103, 104], 3, 3, "U2")[:3] == [100, 101, 102]
    replaced = projector.with_name([100, 101, 102], 1, 1, "U2")
    assert replaced[0] == 100 and replaced[-1] == 102 and 101 not in replaced


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
    monkeypatch.setattr(names_module, "TRIED", 1)
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
    frames = (len(noise[0]) // 160 + 30 + 1) // 2
    fits, too_long = log_odds(speech_llm, noise, heard, [(0, ("U2",))] * 2, [[5] * (frames - 1), [5] * frames])
    assert -math.inf == too_long < fits < 0
    model, end = speech_llm.model.encoder.encoder, speech_llm.model.encoder.encoder.config.first_pass["end"]
    inputs, mask = speech_llm.model.encoder.inputs(*pad(noise))
    (one, *_), prompt = model._encode(inputs, mask.sum(-1)), model.config.first_pass["prompt"]
    texts = [(0, prompt, [*plain[0][:2], token, end], same) for token in (7, 8) for same in (0, 2)]
    whole_a, rest_a, whole_b, rest_b = model._log_probabilities(one, texts)
    assert whole_a - whole_b == pytest.approx(rest_a - rest_b, abs=1e-4) and whole_a != pytest.approx(rest_a)


@pytest.mark.parametrize("believed", [True, False])
def test_the_name_that_audio_and_sound_speak_for_most_is_written_where_no_list_is_believed(
    speech_llm, noise, monkeypatch, tmp_path, believed
):
    names = NamesInPrompt(speech_llm, Lexicon("x", "", tuple(map(Entry, ("Mariah", "FBI", "Adele", "U2")))), 2, basic)
    monkeypatch.setattr(NamesInPrompt, "second_lists", lambda *_: [])
    monkeypatch.setattr(NamesInPrompt, "are_borne", lambda self, text, own, *_: own == ("Adele",))
    speech_llm.heard = HeardFolder(tmp_path / "heard", "tiny")
    _, heard = embeddings_and_heard(speech_llm, noise)
    first, plain = first_hypotheses(speech_llm, [], heard, 0), speech_llm.model.first_pass_tokens(heard)

    def with_name(i, name):
        return speech_llm.model.projector.with_name(plain[i], 0, 0, name)

    def odds(i, own):
        """Of the names of a list in place of the first word."""
        written = [with_name(i, name) for name in LISTS[i]]
        after, without = (
            log_odds(speech_llm, noise, heard, [(i, names)] * len(written), written) for names in (own, ())
        )
        return [a + 0.2 * b for a, b in zip(after, without, strict=True)]

    # The first name of the first list wins by its sound, by a tenth of a nat; the other list is believed or not.
    mariah, fbi = odds(0, LISTS[0])
    scores = {
        "Mariah": (5.2 - mariah) / 3,
        "FBI": (5.1 - fbi) / 3,
        "U2": (5.0 + 0.1 * (-1) ** (not believed) - odds(2, LISTS[2])[0]) / 3,
    }
    monkeypatch.setattr(
        NamesInPrompt, "substitutes", lambda _, words, own: [Substitute(n, 0, 0, scores[n]) for n in own]
    )
    best = heard_with_names(speech_llm, noise, heard, first, LISTS, [None] * 3, names)
    (adele,) = heard_after_lists(speech_llm, noise, heard, [(1, LISTS[1])])
    torch.testing.assert_close(best[1].heard, adele.heard)
    expected = {0: with_name(0, "Mariah")} | ({2: with_name(2, "U2")} if believed else {})
    assert best.keys() == {1, *expected}
    told = speech_llm.model.first_pass_tokens([best[i].heard for i in expected])
    assert told == list(expected.values())
    with monkeypatch.context() as patched:
        patched.setattr(heard_module, "_inputs", None)
        again = heard_with_names(speech_llm, noise, heard, first, LISTS, [None] * 3, names)
    assert all(torch.equal(one.heard, again[i].heard) for i, one in best.items()), "what was heard is remembered"
    monkeypatch.setattr(transcribing_whisper, "choosing", lambda states, *_: states)
    speech_llm.heard = None
    unchosen = heard_with_names(speech_llm, noise, heard, first, LISTS, [None] * 3, names)
    assert unchosen.keys() == {1}, "states that do not tell the name are not believed"
