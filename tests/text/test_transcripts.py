from __future__ import annotations

import gzip

import pytest

from adapt.errors import DataError
from adapt.text.manifest import Entity, Utterance
from adapt.text.transcripts import read_hypotheses, read_hypothesis_texts, read_references

TEXTS = {"u1": "play abba", "u2": "", "u-3": "stop (now) please"}


@pytest.mark.parametrize(
    "lines",
    [
        ["u1\tplay abba", "u2", "u-3\tstop (now) please"],
        ["u1\tplay abba", "u2\t", "u-3\tstop (now) please"],
        ["u1 play abba", "u2", "u-3 stop (now) please"],
        ["play abba (u1)", "(u2)", "stop (now) please (u-3)"],
        ['{"id": "u1", "text": "play abba"}', '{"id": "u2", "text": ""}', '{"id": "u-3", "text": "stop (now) please"}'],
        [
            '{"key": "u1", "source": "1.wav", "target": "play abba"}',
            '{"key": "u2", "target": ""}',
            '{"key": "u-3", "target": "stop (now) please"}',
        ],
        [
            '{"audio_filepath": "a/u1.wav", "duration": 1.0, "text": "play abba"}',
            '{"audio_filepath": "a/u2.wav", "text": ""}',
            '{"audio_filepath": "a/u-3.wav", "text": "stop (now) please"}',
        ],
    ],
    ids=["tsv", "tsv with an empty field", "kaldi", "trn", "jsonl", "slam-llm", "nemo"],
)
def test_each_format_gives_the_same_texts(tmp_path, lines):
    path = tmp_path / "text"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert {u.id: u.text for u in read_references(path)} == TEXTS
    assert read_hypothesis_texts(path) == TEXTS
    packed = tmp_path / "text.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_references(packed) == read_references(path)


def test_the_predicted_text_of_nemo_is_the_hypothesis(tmp_path):
    path = tmp_path / "out.json"
    path.write_text('{"audio_filepath": "a/u1.wav", "text": "said", "pred_text": "heard"}\n')
    assert read_hypothesis_texts(path) == {"u1": "heard"}
    path.write_text('{"id": 0, "audio_filepath": "a/u1.wav", "pred_text": "heard"}\n')
    assert read_hypothesis_texts(path) == {"0": "heard"}


@pytest.mark.parametrize("key", ["pred_text", "pred", "prediction", "hyp", "hypothesis"])
def test_a_prediction_beside_a_text_is_the_hypothesis_on_whichever_line_it_stands(tmp_path, key):
    path = tmp_path / "out.json"
    lines = [f'{{"id": "1", "text": "said", "{key}": "heard"}}', '{"id": "2", "text": "alone"}']
    for order in (lines, lines[::-1]):
        path.write_text("\n".join(order) + "\n")
        assert read_hypothesis_texts(path) == {"1": "heard", "2": "alone"}


def test_a_text_beside_what_may_be_a_prediction_is_refused(tmp_path):
    path = tmp_path / "out.json"
    path.write_text('{"id": "1", "text": "said", "asr_output": "heard"}\n{"id": "2", "hyp": "a", "pred": "b"}\n')
    with pytest.raises(DataError) as error:
        read_hypothesis_texts(path)
    assert str(error.value).splitlines() == [
        f"{path}:1: either of `text` and `asr_output` may be the hypothesis; leave one of them, as `text`",
        f"{path}:2: either of `pred` and `hyp` may be the hypothesis; leave one of them, as `text`",
    ]
    path.write_text('{"id": "1", "text": "said", "speaker": "ann", "confidence": 0.5, "lang": "en"}\n')
    assert read_hypothesis_texts(path) == {"1": "said"}


def test_rare_words_are_entities_wherever_they_occur(tmp_path):
    path = tmp_path / "refs.tsv"
    path.write_text('1\tann and ann\t["ann"]\t["dan", "jan"]\n2\tno\t[]\t[]\n')
    ann = Entity("ann", "rare")
    assert read_references(path) == [Utterance("1", "ann and ann", None, (ann, ann)), Utterance("2", "no", None, ())]


def test_a_bad_file_is_an_error_that_names_the_problem(tmp_path):
    path = tmp_path / "bad"
    for text, problem in (
        ("", "holds no utterances"),
        ("1 a\n2 b\n1 c\n2 d\n", "id '1' and 1 more not unique"),
        ("1\ta\tnot json\n", "bad:1: third field is not a JSON list"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=problem):
            read_references(path)
    path.write_text('{"pred_text": "a"}\n')
    with pytest.raises(DataError, match="bad:1: no id; write"):
        read_hypothesis_texts(path)
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"1 a\n")[:-4])
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_references(broken)


def test_hypotheses_of_a_killed_run_are_read_without_the_cut_line(tmp_path):
    path = tmp_path / "h.jsonl"
    whole = b'{"id": "1", "text": "a"}\n{"id": "2", "text": ""}\n'
    for cut in (b'{"id": "3", "te', b'{"id": "3", "text": "\xc3'):
        path.write_bytes(whole + cut)
        assert read_hypotheses(path) == {"1": "a", "2": ""}
        path.write_bytes(whole + b'{"id": 3, "text": "c"}')
        assert read_hypotheses(path) == {"1": "a", "2": "", "3": "c"}  # ids may be numbers, as in a manifest
        path.write_bytes(whole + cut + b"\n" + whole)
        with pytest.raises(DataError) as error:
            read_hypotheses(path)
        assert [p.split(": ")[0] for p in error.value.problems] == [f"{path}:{n}" for n in (3, 4, 5)]
