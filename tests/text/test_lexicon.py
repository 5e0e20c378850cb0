from __future__ import annotations

import hashlib

import pytest

from adapt.errors import DataError
from adapt.text.lexicon import Entry, read_lexicon


def test_a_lexicon_is_read_with_types_spoken_forms_and_weights(tmp_path):
    path = tmp_path / "bank.tsv"
    rows = ["\ufeff# banks", "IBAN\tterm\ti ban | eye ban\t2.5\r", "", "ING\tbank\t\t", "plain phrase"]
    path.write_text("\n".join(rows), encoding="utf-8")
    lexicon = read_lexicon(path)
    assert lexicon.entries == (
        Entry("IBAN", "term", ("i ban", "eye ban"), 2.5),
        Entry("ING", "bank"),
        Entry("plain phrase"),
    )
    assert (lexicon.name, lexicon.sha) == ("bank", hashlib.sha256(path.read_bytes()).hexdigest()[:6])
    path.write_text("written\tspoken\nIBAN\teye ban\n")
    assert read_lexicon(path).entries == (Entry("IBAN", spoken=("eye ban",)),)


def test_every_bad_line_of_a_lexicon_is_named(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text("A\tx\ny\tx\t\theavy\n\tx\nA\tx\nb\tx\t\t1\textra\nc\tx\t\tnan\n")
    with pytest.raises(DataError) as error:
        read_lexicon(path)
    assert [p.split(": ")[0] for p in error.value.problems] == [f"{path}:{n}" for n in (2, 3, 5, 6)]
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no entries"):
        read_lexicon(path)


def test_an_entity_may_start_with_a_hash_and_a_repeated_one_is_used_once(tmp_path, caplog):
    path = tmp_path / "hash.tsv"
    path.write_text("# songs\n#\n## more\n\\#SELFIE\ttrack\nA\tx\t\t2\nA\tx\nA\ty\n")
    assert read_lexicon(path).entries == (Entry("#SELFIE", "track"), Entry("A", "x", weight=2.0), Entry("A", "y"))
    assert "hash.tsv:6: 'A' (x) repeats an earlier entry and is left out; such lines: 1" in caplog.text
    path.write_text("#SELFIE\ttrack\n")
    with pytest.raises(DataError, match="may be a comment or an entity; write `# ` for a comment"):
        read_lexicon(path)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "a.tsv",
            "Name\tType\nA\tx\n",
            "a.tsv:1: 'Name' reads like the heading of a column; name the columns written, type",
        ),
        ("a.csv", "A,x\n", "is separated by commas; separate the fields by tabs"),
        ("a.txt", "written,type\nA,x\n", "is separated by commas"),
    ],
)
def test_a_header_in_other_words_and_a_file_with_commas_are_refused(tmp_path, name, text, problem):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=problem):
        read_lexicon(tmp_path / name)
    (tmp_path / "list.txt").write_text("Crosby, Stills & Nash\nname\n")
    assert [entry.written for entry in read_lexicon(tmp_path / "list.txt").entries] == ["Crosby, Stills & Nash", "name"]
