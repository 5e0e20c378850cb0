"""Names in the prompt: which are listed, and what is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapt.decode import names as names_module
from adapt.decode import recognise
from adapt.decode.names import NamesInPrompt, borne_by_ctc, first_hypotheses, heard_with_names
from adapt.decode.recognise import Search, decoder_recogniser
from adapt.model.features import read_audio
from adapt.model.heard import Listed, embeddings_and_heard
from adapt.model.load import load_speech_llm
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import read_manifest
from adapt.text.normalise import basic

UTTERANCES = read_manifest(Path(__file__).parents[2] / "recipes/music/dev.jsonl")[:4]
EMPEROR = "godspeed you black emperor"
LEXICON = Lexicon("music", "", (Entry("Adele", "artist"), Entry("AC/DC", "artist", ("a c d c",)), Entry("Björk")))


@pytest.fixture(scope="module")
def tiny():
    return load_speech_llm("tiny")


@pytest.fixture(scope="module")
def samples():
    return [read_audio(u.audio) for u in UTTERANCES]


def test_names_are_those_that_sound_like_the_hypothesis_as_the_decoder_writes_them(tiny):
    names = NamesInPrompt(tiny, LEXICON, 2, basic)
    assert names.lists(["play adell", "who is this", "play a c d see"], [None, None, None]) == [
        ("adele",),
        (),
        ("a c d c",),
    ]
    of_utterance = names.lists(["play adell by ozzy osborn"], [["Ozzy Osbourne", "Prince"]])
    assert of_utterance == [("adele", "ozzy osbourne")] or of_utterance == [("ozzy osbourne", "adele")]
    assert NamesInPrompt(tiny, None, 2, basic).lists(["play prins"], [["Prince"]]) == [("prince",)]


def test_second_lists_hold_what_the_transcript_leads_to_and_what_the_first_list_had_no_room_for(tiny):
    lexicon = Lexicon("x", "", tuple(map(Entry, ("Adele", "Adler", "Odell", "Abdul", "Kraftwerk"))))
    names = NamesInPrompt(tiny, lexicon, 2, basic)
    assert names.lists(["play adell"], [None]) == [("adele", "odell")]
    fresh, others = names.second_lists("play odell by craftwork", None, ("adele", "odell"))
    assert fresh == ("odell", "kraftwerk"), "the names that sound most like the new transcript"
    assert others == ("odell", "kraftwerk"), "the name that was used, and those that were not listed"
    assert names.second_lists("play adul", None, ("adele", "odell"))[1] == ("abdul", "adler"), (
        "those that were not used make room"
    )
    assert names.second_lists("who is this", None, ()) == [(), ()]


@pytest.mark.parametrize(
    ("text", "leaks"),
    [("Adele, AC/DC", True), ("adele ac dc adele", True), ("adele", False), ("adele and ac dc", False), ("", False)],
)
def test_an_answer_that_is_the_list_is_recognised(tiny, text, leaks):
    assert NamesInPrompt(tiny, LEXICON, 2, basic).is_list(text, ("Adele", "AC/DC")) == leaks


@pytest.mark.parametrize(
    ("text", "without", "letters"),
    [
        ("play adele", "play a drill", 4),
        ("play adele", "play adele", 0),
        ("play smoky bar", "play smoki bar", names_module.SPELLED),
        ("play a c d c", "play ace", 4),
        ("play the swallows", "play swallows", 0),
        ("play adele and björk", "play a drill", 5),
        ("play godspeed you black emperor", "play god", names_module.MOST_LETTERS),
    ],
)
def test_the_names_of_a_list_that_are_new(tiny, text, without, letters):
    names = NamesInPrompt(tiny, LEXICON, 2, basic)
    assert names.letters_used(text, ("adele", "a c d c", "smoky bar", "björk", EMPEROR), without) == letters


@pytest.mark.parametrize(
    ("text", "evidence", "borne"),
    [
        ("play adele", 5.5, False),  # 4 letters by sound
        ("play adele", 6.5, True),
        ("play björk", 3.1, True),  # 5
        ("play björk", 2.9, False),
    ],
)
def test_letters_and_audio_speak_for_a_name(tiny, text, evidence, borne):
    names = NamesInPrompt(tiny, LEXICON, 2, basic)
    assert names.are_borne(text, ("adele", "björk"), "play a drill", evidence) == borne
    assert not names.are_borne("play a thrill", ("adele",), "play a drill", 100.0), "it is none of the names"


def test_the_first_hypothesis_is_that_of_ctc_or_the_greedy_one(tiny, samples, monkeypatch):
    slots, heard = embeddings_and_heard(tiny, samples)
    by_ctc = first_hypotheses(tiny, slots, heard, 60)
    assert by_ctc == [row["text"] for row in recognise.ctc_recogniser(tiny, None)(samples, [None] * len(samples))]
    greedy = [row["text"] for row in decoder_recogniser(tiny, Search(1, 60, 0.0))(samples, [None] * len(samples))]
    monkeypatch.setattr(type(tiny), "has_ctc", False)
    assert first_hypotheses(tiny, slots, (), 60) == greedy != by_ctc


def test_a_name_that_the_audio_does_not_bear_is_decoded_again_without_names(tiny, samples, monkeypatch):
    search = Search(1, 60, 0.0, names=NamesInPrompt(tiny, LEXICON, 3, basic))
    phrases = [[u.entities[0].text] if u.entities else None for u in UTTERANCES]
    plain = decoder_recogniser(tiny, Search(1, 60, 0.0))(samples, phrases)
    lists = search.names.lists(first_hypotheses(tiny, *embeddings_and_heard(tiny, samples), 60), phrases)
    assert any(lists)
    monkeypatch.setattr(names_module, "DOUBT", -torch.inf)  # the audio speaks against every name
    assert decoder_recogniser(tiny, search)(samples, phrases) == plain
    monkeypatch.setattr(names_module, "DOUBT", torch.inf)
    assert decoder_recogniser(tiny, search)(samples, phrases) == plain, "it writes no name of the lists"
    monkeypatch.setattr(NamesInPrompt, "letters_used", lambda *_: 5)
    found = decoder_recogniser(tiny, search)(samples, phrases)
    changed = [a != b for a, b in zip(found, plain, strict=True)]
    assert any(changed) and not any(c for c, own in zip(changed, lists, strict=True) if not own)
    monkeypatch.setattr(NamesInPrompt, "is_list", lambda *_: True)
    assert decoder_recogniser(tiny, search)(samples, phrases) == plain, "an answer that is the list"


def test_ctc_bears_what_was_said(tiny, samples):
    _, heard = embeddings_and_heard(tiny, samples[:1])
    said = UTTERANCES[0].text
    assert borne_by_ctc(tiny, heard[0], said, said)
    assert not borne_by_ctc(tiny, heard[0], "completely different words were said by somebody else", said)
    assert not borne_by_ctc(tiny, heard[0], said * 50, said), "more letters than frames"


@pytest.mark.parametrize("evidence", [1.1, 0.9])
def test_sentences_that_sound_like_the_transcript_are_read_where_the_recording_speaks_for_them(
    tiny, monkeypatch, evidence
):
    names = NamesInPrompt(tiny, None, 0, basic, ["stop the music", "play ten mile run", "play ten miles"], 2)
    near = ("play ten miles", "play ten mile run")
    read = []

    def after(llm, samples, rows, lists):
        read.extend(lists)
        return [Listed(torch.zeros(0), "play ten mile run", evidence) for _ in lists]

    monkeypatch.setattr(names_module, "heard_after_lists", after)
    monkeypatch.setattr(names_module, "first_hypotheses", lambda llm, slots, rows, most: rows)
    monkeypatch.setattr(NamesInPrompt, "second_lists", lambda *_: [])
    monkeypatch.setattr(NamesInPrompt, "are_borne", lambda *_: True)
    first, lists = ["play ten miles", "", "play ten miles"], [(), (), ("Ten Mile Run",)]
    best = heard_with_names(tiny, [], [], first, lists, [None] * 3, names)
    assert read == [(2, lists[2]), (0, near)], "where a name is believed, no sentences are read"
    assert set(best) == ({0, 2} if evidence > 1 else {2})
    assert {listed.heard for listed in best.values()} == {"play ten mile run"}
