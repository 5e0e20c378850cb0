"""The pairs of words that a base mishears, in a file."""

from __future__ import annotations

import pytest

from adapt.errors import ModelError
from adapt.model import first_pass
from adapt.train.mishearing import load_mishearings, save_mishearings


def test_mishearings_are_read_as_they_were_written_and_a_broken_file_is_refused(tmp_path):
    assert load_mishearings(tmp_path) == []
    save_mishearings(tmp_path, [("kerry", "carey"), ("a", "é")])
    assert load_mishearings(tmp_path) == [("a", "é"), ("kerry", "carey")]
    for broken in ("", "{", "[1]", '[["a"]]', '[["a", 1]]', "null", "[" * 100_000):
        (tmp_path / first_pass.MISHEARINGS).write_text(broken)
        with pytest.raises(ModelError, match="not a JSON list of pairs"):
            load_mishearings(tmp_path)
