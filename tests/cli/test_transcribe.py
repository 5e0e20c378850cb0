"""`adapt transcribe`: files, manifests, CTC, and everything that can be fused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from ..session import adapt


def test_transcribe_prints_a_line_a_file(recipe, tiny):
    result = adapt("transcribe", recipe / "0.wav", recipe / "1.wav", "--base", tiny.name, "--num-beams", 1)
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        str(recipe / "0.wav"),
        str(recipe / "1.wav"),
    ]


def test_a_recording_that_is_named_twice_is_told(recipe, tiny):
    result = adapt("transcribe", recipe / "0.wav", recipe / "0.wav", "--base", tiny.name)
    assert result.exit_code == 1 and f"{recipe / '0.wav'}: 2 of the recordings have this name" in result.stderr


def test_transcribe_by_ctc_leaves_the_decoder_out(recipe, tiny, tmp_path):
    out = tmp_path / "ctc.jsonl"
    result = adapt("transcribe", recipe / "test.jsonl", "--base", tiny.name, "--decoder", "ctc", "--out", out)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["id"] for line in lines} == {"0", "1"}
    assert all(0 < line["confidence"] <= 1 if line["text"] else line["confidence"] is None for line in lines)
    both = adapt("transcribe", "x.wav", "--decoder", "ctc", "--adapter", tmp_path)
    assert both.exit_code == 2 and "--adapter adapts" in both.stderr


def test_transcribe_with_all_that_can_be_fused(recipe, tiny, tmp_path):
    assert adapt("lm", recipe, "-o", tmp_path / "run").exit_code == 0
    lm = tmp_path / "run/lm"
    common = [recipe / "test.jsonl", "--base", tiny.name, "--lexicon", recipe / "lexicon.tsv"]
    out = tmp_path / "nbest.jsonl"
    result = adapt("transcribe", *common, "--lm", lm / "tokens.arpa", "--ilm", 0.1, "--nbest", 3, "--out", out)
    assert result.exit_code == 0, result.output
    for line in map(json.loads, out.read_text().splitlines()):
        scores = [h["score"] for h in line["nbest"]]
        assert line["text"] == line["nbest"][0]["text"] and len(scores) == 3
        assert {"model", "lm", "ilm", "boost", "ctc"} <= line["nbest"][0].keys()
    before = out.read_text()
    again = adapt("transcribe", *common, "--ctc-weight", 0, "--out", out)
    assert again.exit_code == 0 and "there already" in again.stderr and out.read_text() == before
    assert "there already" not in result.stderr
    for options, told in (
        (["--lm", lm / "words.arpa"], "not token ids"),
        (["--lm", tmp_path / "x.arpa"], "no such file"),
        (["--rescore", recipe], "cannot be loaded"),
        (["--decoder", "ctc", "--lm", lm / "tokens.arpa"], "needs an LM over words"),
    ):
        wrong = adapt("transcribe", *common, *options)
        assert wrong.exit_code == 1 and told in wrong.stderr and "Traceback" not in wrong.output
    assert adapt("transcribe", *common, "--nbest", 9).exit_code == 2
    for option in ("--boost", "--lm-weight", "--ilm"):
        for value in ("nan", "inf", -1):
            assert adapt("transcribe", *common, option, value).exit_code == 2
    below = adapt("transcribe", recipe / "0.wav", *common[1:], "--out", recipe / "0.wav/x.jsonl")
    assert below.exit_code == 1 and "0.wav: " in below.stderr and "Traceback" not in below.output
    soundfile.write(recipe / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, "FLOAT")
    nan = adapt("transcribe", recipe / "nan.wav", *common[1:])
    assert nan.exit_code == 1 and "nan.wav: holds samples that are NaN or infinite" in nan.stderr
    rows = [json.loads(line) for line in (recipe / "test.jsonl").read_text().splitlines()]
    rows[1]["phrases"] = ["the song", "Beyonc\u00e9"]
    (recipe / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = adapt("transcribe", *common, "--out", tmp_path / "own.jsonl")
    assert (
        named.exit_code == 1
        and "phrases: 'Beyonc\u00e9' cannot" in named.stderr
        and not (tmp_path / "own.jsonl").exists()
    )
    pytest.importorskip("pyctcdecode")
    by_ctc = "--decoder", "ctc"
    (recipe / "strange.tsv").write_text("\u6b4c\n")
    unwritten = adapt("transcribe", recipe / "0.wav", *common[1:3], "--lexicon", recipe / "strange.tsv", *by_ctc)
    assert unwritten.exit_code == 1 and "none of it can be written" in unwritten.stderr
    ctc = adapt("transcribe", *common, *by_ctc, "--lm", lm / "words.arpa")
    assert ctc.exit_code == 0 and len(ctc.stdout.splitlines()) == 2, ctc.output
