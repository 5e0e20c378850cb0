"""Figures that others computed: NIST sclite, fbai-speech, and the recogniser outputs of SLURP."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from adapt.score.scoring import score_systems
from adapt.text.manifest import Entity, Utterance
from adapt.text.normalise import basic
from adapt.text.transcripts import read_hypothesis_texts, read_references

DATA = Path(os.environ.get("ADAPT_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="ADAPT_DATA: the folder that holds slurp/ and fbai_deep_bias/"
)
SCLITE = shutil.which("sctk")


def sclite(pairs, folder):
    for name, texts in zip("rh", zip(*pairs, strict=True), strict=True):
        lines = (f"{text} (u_{i})\n" for i, text in enumerate(texts))
        (folder / f"{name}.trn").write_text("".join(lines), encoding="utf-8")
    files = ["-r", folder / "r.trn", "trn", "-h", folder / "h.trn", "trn"]
    command = [SCLITE, "sclite", "-s", *files, "-i", "spu_id", "-o", "rsum", "stdout"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    total = next(line for line in output.splitlines() if "| Sum" in line)
    _, words, _, substitutions, deletions, insertions, *_ = map(int, re.findall(r"\d+", total))
    return words, substitutions, deletions, insertions


def sclite_counts(row):
    return tuple(row.counts[key] for key in ("words", "substitutions", "deletions", "insertions"))


@pytest.mark.skipif(not SCLITE, reason="sctk: NIST sclite is not installed")
def test_totals_equal_sclite(random_pairs, as_set, tmp_path):
    pairs = random_pairs(1000, seed=2)
    utterances, hyps = as_set(pairs)
    theirs = sclite(pairs, tmp_path)
    row = score_systems({"t": utterances}, {"t": {"base": hyps}}, None, "none", resamples=5, convention="is21").rows[0]
    assert sclite_counts(row) == theirs
    # sclite weighs a substitution 4 and the others 3, so that it may count more edits than are needed.
    row = score_systems({"t": utterances}, {"t": {"base": hyps}}, None, "none", resamples=5).rows[0]
    assert sclite_counts(row)[0] == theirs[0] and 0 <= sum(theirs[1:]) - sum(sclite_counts(row)[1:]) < 10


@needs_data
def test_figures_of_slurp(as_set, tmp_path):
    text = (DATA / "slurp/derived_test_ref_hyp.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    utterances = [
        Utterance(r["id"], r["ref"], entities=tuple(Entity(e["value"], e["type"]) for e in r["entities"])) for r in rows
    ]
    row = score_systems({"t": utterances}, {"t": {"s": {r["id"]: r["hyp"] for r in rows}}}, None, resamples=5).rows[0]
    assert f"{row.wer:.2%}" == "18.17%"
    assert f"{row.eer:.2%}" == "24.11%"
    # The plain match: the words of the annotation, as they are written, stand nowhere in the hypothesis.
    plain = [f" {e['value']} " not in f" {' '.join(r['hyp'].split())} " for r in rows for e in r["entities"]]
    assert len(plain) == 11_894 and f"{np.mean(plain):.2%}" == "23.15%"
    # Without the 417 mentions such as "today 's", which the transcript writes "today's", EER would be 21.34 %.
    assert (row.counts["mentions"], row.counts["unplaced_entities"]) == (11_859, 35)
    if SCLITE:
        pairs = [tuple(basic(r[key]) for key in ("ref", "hyp")) for r in rows]
        utterances, hyps = as_set(pairs)
        row = score_systems({"t": utterances}, {"t": {"s": hyps}}, None, "none", resamples=5, convention="is21").rows[0]
        assert sclite_counts(row) == sclite(pairs, tmp_path)


PUBLISHED = sorted((DATA / "fbai_deep_bias/results").glob("*.result")) or [None]


@needs_data
@pytest.mark.parametrize("published", PUBLISHED, ids=lambda path: path and path.name.split(".")[1])
def test_is21_equals_the_published_figures(published):
    references = read_references(DATA / "fbai_deep_bias/ref/test-clean.biasing_100.tsv.gz")
    hyps = read_hypothesis_texts(DATA / "fbai_deep_bias/hyp" / published.name.removesuffix(".result"))
    row = score_systems({"t": references}, {"t": {"s": hyps}}, None, "none", resamples=5, convention="is21").rows[0]
    n = row.counts
    errors = n["substitutions"] + n["deletions"] + n["insertions"]
    biased = n["biased_errors"], n["biased_words"]
    ours = [(errors, n["words"]), (errors - biased[0], n["words"] - biased[1]), biased]
    assert [row.wer, row.u_wer, row.b_wer] == [wrong / of for wrong, of in ours]
    theirs = re.findall(r"error_rate=(\S+),", published.read_text())
    assert [str(100.0 * wrong / of) for wrong, of in ours] == theirs
