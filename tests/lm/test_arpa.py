"""ARPA files of several kinds."""

from __future__ import annotations

import numpy as np
import pytest

from adapt.errors import DataError
from adapt.lm.arpa import kind, read_arpa, to_decimals
from adapt.lm.ngram import load_ngrams

from .conftest import ARPA


def test_nemo_writes_token_ids_as_characters(tmp_path):
    ids, chars, back = tmp_path / "ids.arpa", tmp_path / "chars.arpa", tmp_path / "back.arpa"
    ids.write_text(ARPA.format(4, 33))
    chars.write_text(ARPA.format(chr(104), chr(133)), encoding="utf-8")  # 133 is a line break in Unicode
    assert (kind(ids), kind(chars)) == ("ids", "nemo")
    to_decimals(chars, back)
    for path in (chars, back):
        for ours, theirs in zip(read_arpa(path).tokens, read_arpa(ids).tokens, strict=True):
            assert np.array_equal(ours, theirs)
    spaced = tmp_path / "spaced.arpa"
    spaced.write_bytes(chars.read_bytes().replace(b"\t", b" "))
    to_decimals(spaced, tmp_path / "unspaced.arpa")
    assert (tmp_path / "unspaced.arpa").read_bytes() == back.read_bytes()
    assert float(load_ngrams(back, 40).totals([[4, 33]])[0]) == float(load_ngrams(ids, 40).totals([[4, 33]])[0])


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / "latin.arpa").write_bytes(ARPA.format("caf\u00e9", "it").encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        kind(tmp_path / "latin.arpa")
