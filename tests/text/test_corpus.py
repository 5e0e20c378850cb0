from __future__ import annotations

import pytest

from adapt.errors import DataError
from adapt.text.corpus import prepare, read_text
from adapt.text.manifest import read_manifest
from adapt.text.normalise import basic
from adapt.text.transcripts import read_references


def test_empty_and_unreadable_files_are_errors(tmp_path):
    empty, latin = tmp_path / "empty", tmp_path / "latin"
    empty.write_text("\n \n")
    latin.write_bytes("fine\nalso\n".encode("utf-16"))
    with pytest.raises(DataError) as caught:
        read_text(latin)
    assert caught.value.problems == (f"{latin}: not UTF-8 text; name a text file, or save it as UTF-8",)
    latin.write_bytes(b"fine\ncaf\xe9\nfine\n\xff\n")
    with pytest.raises(DataError, match="holds no utterances"):
        read_manifest(empty)
    with pytest.raises(DataError, match="holds no text"):
        read_text(empty)
    with pytest.raises(DataError, match="no such file"):
        read_text(tmp_path / "gone")
    with pytest.raises(DataError) as error:
        read_text(latin)
    assert [p.split(": ")[0] for p in error.value.problems] == [f"{latin}:2", f"{latin}:4"]


def test_prepare_drops_duplicates_and_leaks_and_splits_the_rest():
    lines = [f"Line {i}" for i in range(20)] + ["line 3!", "LINE 4", "?", "Secret one", "secret, one"]
    corpus = prepare(lines, basic, ["SECRET one."], dev_lines=5, seed=3)
    assert (len(corpus.train), len(corpus.dev)) == (15, 5)
    assert sorted(corpus.train + corpus.dev) == sorted(f"line {i}" for i in range(20))
    assert (corpus.duplicates, corpus.leaks) == (2, ("secret one",))
    assert corpus == prepare(lines, basic, ["SECRET one."], dev_lines=5, seed=3)
    assert corpus.dev != prepare(lines, basic, [], dev_lines=5, seed=4).dev
    with pytest.raises(DataError, match="20 lines are left"):
        prepare(lines, basic, ["secret one"], dev_lines=11, seed=3)


def test_a_line_that_is_too_long_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("short\n" + "a" * 1_000_001 + "\n")
    for read in (read_text, read_references, read_manifest):
        with pytest.raises(DataError, match=r"text.txt:2: a line of 1,000,001 bytes"):
            read(path)
