"""Terms that are found in the text of a domain."""

from __future__ import annotations

from pathlib import Path

from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import basic
from adapt.text.terms import find_terms

from ..session import adapt

ROOT = Path(__file__).parents[2]


def test_most_names_of_the_music_text_are_found_and_little_else():
    sentences = [basic(line) for line in (ROOT / "recipes/music/text.txt").read_text(encoding="utf-8").splitlines()]
    entries = read_lexicon(ROOT / "lexicons/music.tsv").entries
    names = {basic(form) for entry in entries for form in (entry.written, *entry.spoken)}
    text = "\n".join(f" {sentence} " for sentence in sentences)
    said = {name for name in names if f" {name} " in text}
    found = find_terms(sentences)
    assert len(said & set(found)) > 0.95 * len(said), "recall"
    assert len(names & set(found)) > 0.7 * len(found), "precision"
    assert len(names & set(found[:300])) > 0.8 * 300, "the best come first"


def test_the_command_prints_a_lexicon(tmp_path):
    songs = ("purple rain", "#1 crush", "the wall")
    text = [f"{a} {song} {b}\n" for song in songs for a in ("Play", "stop") for b in ("now", "please")]
    (tmp_path / "text.txt").write_text("".join(text))
    done = adapt("terms", tmp_path / "text.txt", "--normaliser", "none")
    assert done.stderr == "3 terms in 12 lines\n" and done.exit_code == 0, done.output
    (tmp_path / "terms.tsv").write_text(done.stdout)
    assert [entry.written for entry in read_lexicon(tmp_path / "terms.tsv").entries] == list(songs)
    for name, content, problem in (("typo.txt", None, "no such file"), ("empty.txt", "", "holds no text")):
        if content is not None:
            (tmp_path / name).write_text(content)
        wrong = adapt("terms", tmp_path / name)
        assert wrong.exit_code == 1 and problem in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.output
