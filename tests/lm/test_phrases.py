"""Lexicon entries as token sequences, and which tokens begin a word."""

from __future__ import annotations

import pytest

from adapt.lm.phrases import Phrase, tokenise, word_beginnings
from adapt.text.lexicon import Entry


def test_entries_are_tokenised_as_within_a_sentence():
    pieces = {"a": 1, "▁": 2, "▁a": 3, "▁queen": 4, "Queen": 5, "▁Queen": 6, "?": 0}

    def encode(text: str) -> list[int]:
        return [pieces.get(p, 0) for p in text.replace(" ", " ▁").split(" ")]

    entries = [Entry("queen"), Entry("nothing", weight=0.0)]
    assert tokenise(entries, lambda t: [9, *encode(t)], str.lower, None) == [Phrase((4,), (9, 0), 5 / 16)]
    assert tokenise(entries, encode, str.lower, unknown=0) == []


def in_bytes(text: str) -> str:
    """Text that is not ASCII, as GPT-2's tokenizer writes it."""
    return "".join(
        chr(b) if b in (*range(161, 173), *range(174, 256)) else chr(323 if b == 173 else b + 162)
        for b in text.encode()
    )


def test_words_begin_in_scripts_with_and_without_spaces():
    assert word_beginnings(["", "▁a", "b", "é", "。"]) == [True, True, False, False, True]
    assert word_beginnings(["<0xE6>", "<0xAD>", "<0xC3>", "ก", "김"]) == [True, False, False, True, False]
    song = in_bytes("歌")
    pieces = ["Ġa", "b", song, song[:2], song[2:], in_bytes("，"), in_bytes("é"), in_bytes("김")]
    assert word_beginnings(pieces) == [True, False, True, True, False, True, False, False]

    def encode(text: str) -> list[str]:  # puts a space before every text, as SentencePiece does
        return ["▁", *text.replace(" ", "▁")]

    for name, before in (("周杰伦", []), ("김철수", ["▁"]), ("cher", ["▁"])):
        (phrase,) = (p for p in tokenise([Entry(name)], encode, str.lower, None) if p.inside[-1] == name[-1])
        assert phrase.inside == (*before, *name) and phrase.first == ("▁", *name)


@pytest.mark.parametrize(
    ("name", "share"),
    [("Godspeed You! Black Emperor", 1), ("Cher", 4 / 16), ("blink-182", 8 / 16), ("坂本龍一", 12 / 16)],
)
def test_short_names_have_a_smaller_weight(name, share):
    (phrase,) = tokenise([Entry(name, weight=2.0)], lambda text: [9] * len(text), str.lower, None)
    assert phrase.weight == 2 * share
