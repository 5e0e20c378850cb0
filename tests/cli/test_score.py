"""`adapt score` over files of several formats."""

from __future__ import annotations

import json

import pytest

from ..session import adapt, write_manifest


def test_score_by_hand(tmp_path):
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


def test_score_of_other_tools_files(tmp_path):
    (tmp_path / "refs.tsv").write_text('a\tcall ann\t["ann"]\t[]\nb\tstop\t[]\t[]\nc\tgo\t[]\t[]\n')
    (tmp_path / "one.trn").write_text("call dan (a)\nstop (b)\n")
    (tmp_path / "two").write_text("a call ann\nb stop\n")
    files = [tmp_path / name for name in ("refs.tsv", "one.trn", "two")]
    refused = adapt("score", *files)
    assert refused.exit_code == 1
    assert [line for line in refused.stderr.splitlines() if "hypothesis of 'c' missing" in line and "--lenient" in line]
    result = adapt("score", *files, "--lenient", "--convention", "is21", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "refs, two: EER 100.0 -> 0.0, 100 % lower" in result.stdout
    assert "wer|conv:is21|norm:basic|lex:none|utts:2|lenient:of 3|" in result.stdout
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    scores = [f"scores/{name}" for name in ("errors.tsv", "metrics.json", "table.md")]
    assert found == ["hyps/refs.jsonl", "hyps/refs.one.jsonl", "hyps/refs.two.jsonl", "report.html", *scores]
    assert "ann\tann\tdan" in (tmp_path / "out/scores/errors.tsv").read_text()
