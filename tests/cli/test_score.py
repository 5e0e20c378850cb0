"""`adapt score` over files of several formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..session import adapt, write_manifest


def test_two_systems_are_scored_beside_each_other(tmp_path):
    write_manifest(tmp_path / "refs.jsonl", ["a", "b"])
    for name, said in (("one", "play a song"), ("two", "play the song")):
        lines = [json.dumps({"id": i, "text": said}) for i in "ab"]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    result = adapt("score", tmp_path / "refs.jsonl", tmp_path / "one.jsonl", tmp_path / "two.jsonl", "--json")
    rows = json.loads(result.stdout)["rows"]
    assert [(row["system"], row["wer"], row["eer"]) for row in rows] == [
        ("one", pytest.approx(1 / 3), 1),
        ("two", 0, 0),
    ]


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """References as a table with biased words, and two systems' hypotheses in other formats; 'c' is missing."""
    (tmp_path / "refs.tsv").write_text('a\tcall ann\t["ann"]\t[]\nb\tstop\t[]\t[]\nc\tgo\t[]\t[]\n')
    (tmp_path / "one.trn").write_text("call dan (a)\nstop (b)\n")
    (tmp_path / "two").write_text("a call ann\nb stop\n")
    return [tmp_path / name for name in ("refs.tsv", "one.trn", "two")]


def test_a_missing_hypothesis_is_an_error_that_names_the_way_out(files):
    refused = adapt("score", *files)
    assert refused.exit_code == 1
    assert [line for line in refused.stderr.splitlines() if "hypothesis of 'c' missing" in line and "--lenient" in line]


def test_files_of_other_tools_are_scored_by_their_convention(files):
    result = adapt("score", *files, "--lenient", "--convention", "is21")
    assert result.exit_code == 0, result.output
    assert "refs, two: EER 100.0 -> 0.0, 100 % lower" in result.stdout
    signature = "wer|conv:is21|norm:basic|lex:none|utts:2|lenient:of 3|"
    assert signature in result.stdout, "the signature says how it was counted, and what was left out"


def test_out_writes_scores_errors_and_a_report(files, tmp_path):
    out = tmp_path / "out"
    result = adapt("score", *files, "--lenient", "--convention", "is21", "--out", out)
    assert result.exit_code == 0, result.output
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    scores = [f"scores/{name}" for name in ("errors.tsv", "metrics.json", "table.md")]
    assert found == ["hyps/refs.jsonl", "hyps/refs.one.jsonl", "hyps/refs.two.jsonl", "report.html", *scores]
    assert "ann\tann\tdan" in (out / "scores/errors.tsv").read_text(), "the list of entity errors"
