"""What the stage `score` says besides the scores."""

from __future__ import annotations

import json

from adapt.stages.score import retrieval_notes
from adapt.text.clip import Clip
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import Entity, Utterance
from adapt.text.normalise import basic


def test_the_share_of_names_that_sound_like_the_first_hypothesis(tmp_path):
    heard = {"1": "play craft work", "2": "play something else", "3": "play a c d c"}
    (tmp_path / "ctc.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in heard.items()))
    said = {"1": ("Kraftwerk",), "2": ("Adele",), "3": ("AC/DC", "nobody in the lexicon")}
    sets = {
        "target": [
            Utterance(i, heard[i], Clip(tmp_path / i), entities=tuple(Entity(name, "artist") for name in names))
            for i, names in said.items()
        ],
        "source": [Utterance("1", "no names", Clip(tmp_path / "1"))],
    }
    files = {name: {"base": tmp_path / "none", "ctc": tmp_path / "ctc.jsonl"} for name in sets}
    lexicon = Lexicon("l", "", (Entry("Kraftwerk"), Entry("Adele"), Entry("AC/DC", spoken=("a c d c",))))
    (note,) = retrieval_notes(sets, files, lexicon, basic)
    assert note == (
        "target: of 3 names of the lexicon, 66.7 % among 10, 66.7 % among 20, 66.7 % among 50 that sound most like the "
        "transcript of `ctc`"
    )
