"""ARPA files from text."""

from __future__ import annotations

import gzip

import pytest

from adapt.errors import DataError
from adapt.lm.arpa import kind
from adapt.lm.build import build_tokens, build_words
from adapt.lm.estimate import estimate, write_arpa


def test_a_large_text_is_estimated_by_lmplz(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.lm.build.LMPLZ_TOKENS", 3)
    fake = tmp_path / "lmplz"
    ours = tmp_path / "given.arpa"
    write_arpa(estimate([[7, 8]], 20, 2), ours)
    fake.write_text(
        f'#!/bin/sh\ncat > {tmp_path}/read\necho "$@" > {tmp_path}/args\n'
        f'while [ "$1" != --arpa ]; do shift; done\ncp {ours} $2\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    build_tokens(["play the song"] * 3, ["play it"], tiny.tokenizer, 60, 2, (0, 0, 1), tmp_path / "lm/tokens.arpa")
    ids = " ".join(map(str, tiny.tokenizer.encode("play the song", add_special_tokens=False)))
    assert (tmp_path / "read").read_text() == f"{ids}\n" * 3
    assert "-o 2 --discount_fallback" in (tmp_path / "args").read_text()
    assert "--prune" not in (tmp_path / "args").read_text()
    fake.write_text("#!/bin/sh\ncat > /dev/null\necho out of memory >&2\nexit 3\n")
    with pytest.raises(DataError, match="lmplz: failed: out of memory"):
        build_tokens(["play the song"] * 3, ["play it"], tiny.tokenizer, 60, 2, (0, 0), tmp_path / "lm/tokens.arpa")
    fake.write_text("#!/bin/sh\nexec <&-\necho no boost >&2\nexit 127\n")  # before it reads anything
    with pytest.raises(DataError, match="lmplz: failed: no boost"):
        build_tokens(["play the song"] * 9_999, ["play"], tiny.tokenizer, 60, 2, (0, 0), tmp_path / "lm/tokens.arpa")


def test_an_lm_of_words_is_estimated_or_taken_as_given(tmp_path):
    build_words(["play the song", "play it"], 2, (0,), tmp_path / "lm/words.arpa")
    assert kind(tmp_path / "lm/words.arpa") == "words"
    build_words([], 2, (0,), tmp_path / "again.arpa", existing=tmp_path / "lm/words.arpa")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "lm/words.arpa").read_bytes()
    (tmp_path / "packed.arpa.gz").write_bytes(gzip.compress((tmp_path / "again.arpa").read_bytes()))
    build_words([], 2, (0,), tmp_path / "unpacked.arpa", existing=tmp_path / "packed.arpa.gz")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "unpacked.arpa").read_bytes()
    build_words(["我 想 听", "我 听"], 2, (0,), tmp_path / "characters.arpa")
    assert kind(tmp_path / "characters.arpa") == "words"
