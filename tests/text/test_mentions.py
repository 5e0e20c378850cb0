from __future__ import annotations

import pytest

from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import Entity, Utterance
from adapt.text.mentions import entities_in, find_mentions, phrase_index, place_entities, reference_mentions
from adapt.text.normalise import basic, english, none
from adapt.text.words import words_of


def test_mentions_are_found_longest_first_from_left_to_right():
    lexicon = Lexicon(
        "music",
        "",
        (
            Entry("Queen", "artist"),
            Entry("Dancing Queen", "track"),
            Entry("Queen of the Night", "track"),
            Entry("AC/DC", "artist", ("a c d c",)),
            Entry("!!!", "artist"),
        ),
    )
    index = phrase_index(lexicon, basic)
    text = "dancing queen of the night by queen or a c d c queen of the"
    found = [(m.start, m.end, m.written) for m in find_mentions(text.split(), index)]
    assert found == [
        (0, 2, "Dancing Queen"),
        (6, 7, "Queen"),
        (8, 12, "AC/DC"),
        (12, 13, "Queen"),
    ]
    assert find_mentions([], index) == []
    assert entities_in(["play a c d c", "dancing queen"], index, basic) == {"ac dc", "dancing queen"}


def test_annotated_entities_are_placed_longest_first():
    words = ["from", "queen", "to", "dancing", "queen"]
    entities = [Entity("Queen", "artist"), Entity("Dancing Queen", "track"), Entity("Abba", "artist"), Entity("!", "x")]
    mentions, unplaced = place_entities(words, entities, basic)
    assert [(m.start, m.end, m.type) for m in mentions] == [(1, 2, "artist"), (3, 5, "track")]
    assert unplaced == ["Abba", "!"]


PLACED = {  # text, entity, normaliser: the words of its mention; "": it has no place
    ("play adele's hello", "Adele", basic): "adele's",
    ("Adele's. Hello!", "adele", none): "Adele's.",
    ("it's for guns n' roses' fans", "Guns N' Roses", basic): "guns n roses",
    ("i saw thelma and louise'll start", "Louise", basic): "louise'll",
    ("une photo de l\u2019Eiffel", "Eiffel", basic): "l'eiffel",
    ("我想听邓丽君的歌", "邓丽君", basic): "邓丽君",
    ("邓丽君 と 王菲", "王菲", basic): "王菲",
    ("サザンオールスターズを再生", "サザンオールスターズ", basic): "サザンオールスターズ",
    ("เปิดเพลงของบอดี้สแลม", "บอดี้สแลม", basic): "บอดี้สแลม",
    ("ចាក់បទរបស់ស៊ីនស៊ីសាមុត", "ស៊ីនស៊ីសាមុត", basic): "ស៊ីនស៊ីសាមុត",
    ("play one twenty one pilots", "twenty one pilots", english): "121 pilots",
    ("play twenty one pilots", "twenty one pilots", english): "21 pilots",
    ("play hurt (by johnny cash)", "Johnny Cash", english): "",
    ("play hurt (by johnny cash)", "Johnny Cash", basic): "johnny cash",
    ("adele's album", "Adele", english): "adele",
    ("a song by !!!", "!!!", basic): "",
}


@pytest.mark.parametrize("annotated", [True, False], ids=["annotated", "from the lexicon"])
@pytest.mark.parametrize(("text", "entity", "normalise"), PLACED)
def test_an_entity_is_found_or_named(text, entity, normalise, annotated):
    expected = PLACED[text, entity, normalise]
    index = phrase_index(Lexicon("m", "", (Entry(entity),)), normalise)
    utterance = Utterance("1", text, entities=(Entity(entity, "term"),) if annotated else None)
    words = words_of(normalise(text))
    mentions, unplaced = reference_mentions(words, utterance, index, normalise)
    found = ["".join(words[m.start : m.end]) for m in mentions]
    assert found == ([expected.replace(" ", "")] if expected else [])
    assert [m.written for m in mentions] == ([entity] if expected else [])
    # The lexicon cannot know of a name that is not in the text.
    known = annotated or (expected == "" and normalise is english)
    assert unplaced == ([] if expected or not known else [entity])


def test_a_name_within_a_word_is_found_where_it_is_annotated_alone():
    index = phrase_index(Lexicon("m", "", (Entry("Connor"),)), basic)
    assert find_mentions(["by", "o'connor"], index) == []
    mentions, unplaced = place_entities(["by", "o'connor"], [Entity("Connor", "x")], basic, "by O'Connor")
    assert ([(m.start, m.end) for m in mentions], unplaced) == ([(1, 2)], [])
