from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import jiwer
import numpy as np
import pytest

from adapt.errors import DataError
from adapt.score.compare import interval, p_value, resample
from adapt.score.entity import entity_errors
from adapt.score.report import write_report
from adapt.score.score import score
from adapt.score.wer import align
from adapt.text.corpus import Entity, Utterance
from adapt.text.lexicon import Entry, Lexicon, Mention

WORDS = ["a", "b", "cc", "dd", "e"]
KEYS = [
    *("set", "system", "wer", "wer_ci", "cer", "eer", "eer_ci", "eer_seen", "eer_unseen", "u_wer", "b_wer"),
    *("false_alarms_per_1k", "by_type", "counts", "p_wer", "p_eer"),
]


def random_pairs(count, seed=0):
    generator = random.Random(seed)
    for _ in range(count):
        yield tuple(" ".join(generator.choices(WORDS, k=generator.randint(low, 9))) for low in (1, 0))


def as_set(pairs):
    utterances = [Utterance(str(i), ref) for i, (ref, _) in enumerate(pairs)]
    return utterances, {str(i): hyp for i, (_, hyp) in enumerate(pairs)}


def test_totals_equal_jiwer():
    utterances, hyps = as_set(list(random_pairs(500)))
    row = score({"t": utterances}, {"t": {"base": hyps}}, None, "none", resamples=10).rows[0]
    theirs = jiwer.process_words([u.text for u in utterances], list(hyps.values()))
    found = tuple(row.counts[key] for key in ("substitutions", "deletions", "insertions"))
    assert found == (theirs.substitutions, theirs.deletions, theirs.insertions)
    assert row.wer == pytest.approx(theirs.wer)
    assert row.cer == pytest.approx(jiwer.cer([u.text for u in utterances], list(hyps.values())))
    assert (row.eer, row.eer_ci, row.b_wer, row.u_wer, row.false_alarms_per_1k) == (None,) * 5


def test_wrong_mentions_equal_the_definition():
    for ref, hyp in random_pairs(500, seed=1):
        ref, hyp = ref.split(), hyp.split()
        ops = align(ref, hyp)
        for start, end in itertools.combinations(range(len(ref) + 1), 2):
            wrong = any(
                start < op.ref_start < end
                if op.kind == "insert"
                else op.kind != "equal" and op.ref_start < end and start < op.ref_end
                for op in ops
            )
            errors = entity_errors(ref, hyp, ops, [Mention(start, end, "x", "")])
            assert errors.judged[0].wrong == wrong, (ref, hyp, start, end)


@pytest.fixture
def worked():
    """Six mentions, three of them seen; base gets four wrong, adapted one; one false alarm each."""
    entries = (Entry("Abba", "artist"), Entry("Let It Be", "track"), Entry("Hi-Hi"))
    test = [
        Utterance("1", "Play Abba and Abba!", entities=(Entity("Abba", "artist"),) * 2),
        Utterance("2", "Play let it be"),
        Utterance("3", "Abba, let it be, hi hi"),
        Utterance("4", "stop"),
    ]
    base = {"1": "play a bar and abba", "2": "play let it", "3": "abba let be high high", "4": "stop abba"}
    adapted = {u.id: u.text for u in test} | {"3": "abba let it be hi high", "4": "stop abba"}
    guard = [Utterance("g", "stop it", entities=())]
    lexicon = Lexicon("music", "3f9c1e", entries)
    return (
        {"target": test, "source": guard},
        {"target": {"base": base, "adapted": adapted}, "source": {"base": {"g": "stop"}}},
        lexicon,
    )


def test_worked_example(worked):
    scores = score(*worked, seen=frozenset({"abba"}), resamples=200)
    base, adapted, guard = scores.rows
    # Words: 4 + 4 + 6 + 1. Base: sub + ins, del, del + 2 sub, ins.
    assert base.wer == pytest.approx(7 / 15)
    assert adapted.wer == pytest.approx(2 / 15)
    assert (base.eer, adapted.eer) == (pytest.approx(4 / 6), pytest.approx(1 / 6))
    assert (base.eer_seen, base.eer_unseen) == (pytest.approx(1 / 3), 1.0)
    assert base.by_type == {"artist": pytest.approx(1 / 3), "track": 1.0, "term": 1.0}
    assert base.counts["by_type"]["artist"] == {"mentions": 3, "wrong": 1}
    # Mentions hold 11 words; the word beside "a bar" was inserted outside of any, "abba" is a false alarm.
    assert base.counts["biased_words"] == 11
    assert base.b_wer == pytest.approx(6 / 11)
    assert base.u_wer == pytest.approx(1 / 4)
    assert base.false_alarms_per_1k == pytest.approx(1000 / 15)
    assert (base.p_wer, base.p_eer) == (None, None)
    assert 0 < adapted.p_wer <= 1 and 0 < adapted.p_eer <= 1
    assert (guard.wer, guard.eer, guard.eer_seen, guard.by_type) == (0.5, None, None, {})


def test_json_and_table(worked):
    scores = score(*worked, seen=frozenset({"abba"}), resamples=200)
    data = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert data["signature"].startswith("wer|norm:basic|lex:music@3f9c1e|utts:4+1|bs:200|seed:1|v:")
    assert [list(row) for row in data["rows"]] == [KEYS] * 3
    table = scores.table().splitlines()
    assert table[0].split() == ["set", "system", "WER", "EER", "seen", "unseen", "artist", "term", "track"]
    assert table[1].split()[:4] == ["target", "base", "46.7", "±"]
    assert table[3].split()[-1] == "n/a"
    assert table[-1] == data["signature"]


def test_order_of_utterances_changes_nothing(worked):
    sets, hyps, lexicon = worked
    turned = {name: utterances[::-1] for name, utterances in sets.items()}
    assert score(turned, hyps, lexicon, resamples=50).rows == score(sets, hyps, lexicon, resamples=50).rows


def test_mismatched_ids_and_names_are_errors(worked):
    sets, hyps, lexicon = worked
    hyps["target"]["adapted"] = {"1": "", "x": "", "y": ""}
    with pytest.raises(DataError) as error:
        score(sets, {**hyps, "other": {}}, lexicon)
    missing, unknown, empty = error.value.problems
    assert "target, adapted: hypothesis of '2' and 2 more missing" in missing
    assert "hypothesis of 'x' and 1 more unknown" in unknown
    assert "'other'" in empty
    with pytest.raises(DataError, match="unknown normaliser 'basik'"):
        score(sets, hyps, lexicon, "basik")


def test_bootstrap_finds_what_is_there_and_is_quick():
    generator = np.random.default_rng(0)
    words = np.full(10_000, 10)
    base = generator.binomial(10, 0.30, 10_000)
    same = base[generator.permutation(10_000)]
    better = np.maximum(base - (generator.random(10_000) < 0.05), 0)
    start = time.perf_counter()
    sums = resample(np.column_stack([base, same, better, words]), 1000, seed=1)
    assert time.perf_counter() - start < 2
    low, high = interval(sums[:, 0], sums[:, 3])
    # The normal approximation of the same interval: sd of a binomial of 10 over 10,000 utterances.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 100_000), rel=0.1)
    (b, s, n), w = sums[:, :3].T, sums[:, 3]
    assert p_value((b, w), (s, w), 0.0) == 1.0
    assert p_value((b, w), (n, w), float((better - base).sum() / words.sum())) == pytest.approx(1 / 1001)


def test_report(worked, tmp_path):
    sets, hyps, lexicon = worked
    hyps["target"]["adapted"]["4"] = "<stop> & abba"
    metrics = score(sets, hyps, lexicon, "none", resamples=50).to_json()
    curves = {"prompt": [{"step": 1, "loss": 2.0}], "decoder": [{"step": 1, "loss": 2, "dev_loss": 1.5}]}
    write_report(tmp_path / "r.html", metrics, sets, hyps, curves, "name: <music>")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert metrics["signature"] in page and "name: &lt;music&gt;" in page
    assert "&lt;stop&gt;" in page and "<stop>" not in page and "<script" not in page
    assert page.count("<svg ") == 3 and "prefers-color-scheme" in page
    write_report(tmp_path / "again.html", metrics, sets, hyps, curves, "name: <music>")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_nothing_of_torch_is_imported():
    code = "import sys, adapt.score.report, adapt.score.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif("ADAPT_DATA" not in os.environ, reason="ADAPT_DATA: the folder that holds slurp/")
def test_slurp():
    path = Path(os.environ["ADAPT_DATA"]) / "slurp" / "derived_test_ref_hyp.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    utterances = [
        Utterance(r["id"], r["ref"], entities=tuple(Entity(e["value"], e["type"]) for e in r["entities"])) for r in rows
    ]
    row = score({"t": utterances}, {"t": {"s": {r["id"]: r["hyp"] for r in rows}}}, None).rows[0]
    assert row.wer == pytest.approx(0.1816, abs=5e-5)
    assert row.eer == pytest.approx(0.2146, abs=5e-5)
