"""`adapt transcribe`: files, manifests, CTC, and everything that can be fused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adapt.lm import phrases as lm_phrases

from ..session import adapt


def test_each_recording_has_a_line(recipe, tiny):
    result = adapt("transcribe", recipe / "0.wav", recipe / "1.wav", "--base", tiny.name, "--num-beams", 1)
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        str(recipe / "0.wav"),
        str(recipe / "1.wav"),
    ]


def test_two_recordings_of_one_name_are_an_error(recipe, tiny):
    result = adapt("transcribe", recipe / "0.wav", recipe / "0.wav", "--base", tiny.name)
    assert result.exit_code == 1 and f"{recipe / '0.wav'}: 2 of the recordings have this name" in result.stderr


def test_ctc_hypotheses_have_a_confidence(recipe, tiny, tmp_path):
    out = tmp_path / "ctc.jsonl"
    result = adapt("transcribe", recipe / "test.jsonl", "--base", tiny.name, "--decoder", "ctc", "--out", out)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["id"] for line in lines} == {"0", "1"}
    assert all(0 < line["confidence"] <= 1 if line["text"] else line["confidence"] is None for line in lines)


def test_an_adapter_for_the_ctc_decoder_is_wrong_usage(tmp_path):
    both = adapt("transcribe", "x.wav", "--decoder", "ctc", "--adapter", tmp_path)
    assert both.exit_code == 2 and "--adapter adapts" in both.stderr


def options(recipe, base) -> list:
    """The options of a base and of a lexicon."""
    return ["--base", base, "--lexicon", recipe / "lexicon.tsv"]


def test_lm_internal_lm_and_lexicon_are_fused_into_an_nbest_list(lm_run, tmp_path):
    out = tmp_path / "nbest.jsonl"
    fused = ["--lm", lm_run.run / "lm/tokens.arpa", "--ilm", 0.1, "--nbest", 3, "--out", out]
    result = adapt("transcribe", lm_run.recipe / "test.jsonl", *options(lm_run.recipe, lm_run.base), *fused)
    assert result.exit_code == 0 and "there already" not in result.stderr, result.output
    for line in map(json.loads, out.read_text().splitlines()):
        assert len(line["nbest"]) == 3
        assert line["text"] == line["nbest"][0]["text"], "the best hypothesis is the transcript"
        assert all({"score", "model", "lm", "ilm", "boost", "ctc"} <= h.keys() for h in line["nbest"])


def test_a_finished_file_of_transcripts_is_left_as_it_is(recipe, tiny, tmp_path):
    out = tmp_path / "hyps.jsonl"
    call = ["transcribe", recipe / "test.jsonl", "--base", tiny.name, "--out", out]
    first = adapt(*call)
    assert first.exit_code == 0 and "there already" not in first.stderr, first.output
    before = out.read_text()
    again = adapt(*call, "--ctc-weight", 0)
    assert again.exit_code == 0 and "there already" in again.stderr, again.output
    assert out.read_text() == before


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (["--lm", "lm/words.arpa"], "not token ids"),
        (["--lm", "lm/none.arpa"], "no such file"),
        (["--rescore", "lm"], "cannot be loaded"),
        (["--decoder", "ctc", "--lm", "lm/tokens.arpa"], "needs an LM over words"),
    ],
)
def test_an_lm_of_the_wrong_kind_is_an_error(lm_run, monkeypatch, wrong, problem):
    monkeypatch.chdir(lm_run.run)
    result = adapt("transcribe", lm_run.recipe / "test.jsonl", *options(lm_run.recipe, lm_run.base), *wrong)
    assert result.exit_code == 1 and problem in result.stderr and "Traceback" not in result.output, result.output


def test_more_hypotheses_than_beams_are_wrong_usage():
    result = adapt("transcribe", "x.wav", "--nbest", 9)
    assert result.exit_code == 2 and "--num-beams 9" in result.stderr, result.output


@pytest.mark.parametrize("option", ["--boost", "--lm-weight", "--ilm"])
@pytest.mark.parametrize("value", ["nan", "inf", -1])
def test_a_weight_that_is_negative_or_not_finite_is_wrong_usage(option, value):
    result = adapt("transcribe", "x.wav", option, value)
    assert result.exit_code == 2 and "is not a weight" in result.stderr, result.output


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--reward", "nan"], "give a finite one"),
        (["--reward", -1], "alone it has no effect"),
        (["--reward", -1, "--lexicon", "l.tsv", "--names", "prompt"], "alone it has no effect"),
        (["--reward", -1, "--lexicon", "l.tsv", "--decoder", "first-pass"], "--decoder first-pass does not use it"),
        (["--max-new-tokens", 9, "--decoder", "ctc"], "--max-new-tokens: --decoder ctc uses no LLM"),
    ],
)
def test_a_reward_or_a_length_that_has_no_effect_is_wrong_usage(words, problem):
    result = adapt("transcribe", "x.wav", *words)
    assert result.exit_code == 2 and problem in result.stderr, result.output


def test_an_out_file_below_a_file_is_an_error(recipe, tiny):
    call = ["transcribe", recipe / "0.wav", *options(recipe, tiny.name)]
    result = adapt(*call, "--out", recipe / "0.wav/x.jsonl")
    assert result.exit_code == 1 and "0.wav: " in result.stderr and "Traceback" not in result.output, result.output


def test_samples_that_are_not_finite_are_an_error(recipe, tiny):
    soundfile.write(recipe / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, "FLOAT")
    result = adapt("transcribe", recipe / "nan.wav", *options(recipe, tiny.name))
    assert result.exit_code == 1 and "nan.wav: holds samples that are NaN or infinite" in result.stderr, result.output


def test_a_phrase_of_an_utterance_that_cannot_be_written_is_left_out(recipe, tiny, tmp_path, caplog):
    lm_phrases._warn.cache_clear()  # another test may have seen the warning
    rows = [json.loads(line) for line in (recipe / "test.jsonl").read_text().splitlines()]
    texts = []
    for phrases in (["the song"], ["the song", "Beyonc\u00e9"]):
        rows[1]["phrases"] = phrases
        (recipe / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / f"{len(phrases)}.jsonl"
        result = adapt("transcribe", recipe / "test.jsonl", *options(recipe, tiny.name), "--out", out)
        assert result.exit_code == 0, result.output
        texts.append(out.read_text())
    assert texts[0] == texts[1] and "are not boosted: 'Beyonc\u00e9'" in caplog.text


def test_a_lexicon_that_ctc_cannot_write_is_an_error(recipe, tiny):
    pytest.importorskip("pyctcdecode")
    (recipe / "strange.tsv").write_text("\u6b4c\n")
    call = ["transcribe", recipe / "0.wav", "--base", tiny.name, "--decoder", "ctc"]
    result = adapt(*call, "--lexicon", recipe / "strange.tsv")
    assert result.exit_code == 1 and "none of it can be written" in result.stderr, result.output


def test_ctc_takes_a_lexicon_and_an_lm_of_words(lm_run):
    pytest.importorskip("pyctcdecode")
    fused = ["--decoder", "ctc", "--lm", lm_run.run / "lm/words.arpa"]
    result = adapt("transcribe", lm_run.recipe / "test.jsonl", *options(lm_run.recipe, lm_run.base), *fused)
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 2, result.output


def test_no_transcript_is_longer_than_max_new_tokens():
    audio = Path(__file__).parents[2] / "recipes/music/audio/test/music-test-002.ogg"
    done = adapt("transcribe", audio, "--max-new-tokens", 6)
    assert done.exit_code == 0, done.output
    text = done.stdout.split("\t")[1].strip()
    assert text and len(text) < len("kick off the evening"), "the sentence goes on"
