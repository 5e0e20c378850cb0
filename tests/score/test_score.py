from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapt.errors import DataError
from adapt.score.compare import interval, p_value, resample
from adapt.score.entity import entity_errors
from adapt.score.report import report, save_hypotheses, save_scores
from adapt.score.score import score
from adapt.score.wer import align
from adapt.text.corpus import Entity, Utterance
from adapt.text.lexicon import Entry, Lexicon, Mention
from adapt.text.normalise import basic
from adapt.text.transcripts import read_hypothesis_texts, read_references

WORDS = ["a", "b", "cc", "dd", "e"]
KEYS = [
    *("set", "system", "wer", "wer_ci", "cer", "eer", "eer_ci", "eer_seen", "eer_unseen", "u_wer", "b_wer"),
    *("precision", "recall", "f1", "false_alarms_per_1k", "by_type", "counts", "p_wer", "p_eer"),
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
    assert (base.precision, base.recall, base.f1) == (pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(4 / 9))
    assert (guard.precision, guard.recall, guard.f1) == (None, None, None)
    assert (base.p_wer, base.p_eer) == (None, None)
    assert 0 < adapted.p_wer <= 1 and 0 < adapted.p_eer <= 1
    heard = {(e.entity, e.said, e.heard): e.count for e in scores.errors if e.system == "base"}
    assert heard == {
        ("Abba", "abba", "bar"): 1,
        ("Let It Be", "let it be", "let it"): 1,
        ("Let It Be", "let it be", "let be"): 1,
        ("Hi-Hi", "hi hi", "high high"): 1,
    }
    changed = {(c.entity, c.gained, c.lost) for c in scores.changes}
    assert changed == {("Abba", 1, 0), ("Let It Be", 2, 0)}
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
    assert table[4].startswith("target, adapted: WER 46.7 -> 13.3, 71 % lower")
    assert data["sentences"] == table[4:-1]
    markdown = scores.markdown().splitlines()
    assert markdown[0].startswith("| set | system | WER | EER | seen |") and markdown[1].startswith(
        "| --- | --- | ---: |"
    )
    assert scores.errors_tsv().splitlines()[0] == "set\tsystem\tcount\ttype\tentity\tsaid\theard"


def test_order_of_utterances_changes_nothing(worked):
    sets, hyps, lexicon = worked
    turned = {name: utterances[::-1] for name, utterances in sets.items()}
    assert score(turned, hyps, lexicon, resamples=50).rows == score(sets, hyps, lexicon, resamples=50).rows


def test_other_systems_change_no_figure_of_one():
    pairs = list(random_pairs(60))
    utterances = [Utterance(str(i), ref) for i, (ref, _) in enumerate(pairs)]
    base, own, other = ({str(i): hyp for i, (_, hyp) in enumerate(random_pairs(60, seed))} for seed in (1, 2, 3))
    alone, beside = (
        score({"test": utterances}, {"test": systems}, None, resamples=50).rows
        for systems in ({"base": base, "own": own}, {"base": base, "other": other, "own": own})
    )
    assert alone == (beside[0], beside[2]) and alone[1].p_wer is not None


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


def test_bootstrap_finds_what_is_there():
    generator = np.random.default_rng(0)
    words = np.full(10_000, 10)
    base = generator.binomial(10, 0.30, 10_000)
    same = base[generator.permutation(10_000)]
    better = np.maximum(base - (generator.random(10_000) < 0.05), 0)
    sums = resample(np.column_stack([base, same, better, words]), 1000, seed=1)
    low, high = interval(sums[:, 0], sums[:, 3])
    # The normal approximation of the same interval: sd of a binomial of 10 over 10,000 utterances.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 100_000), rel=0.1)
    (b, s, n), w = sums[:, :3].T, sums[:, 3]
    assert p_value((b, w), (s, w), 0.0) == 1.0
    assert p_value((b, w), (n, w), float((better - base).sum() / words.sum())) == pytest.approx(1 / 1001)


def test_report(worked, tmp_path):
    sets, hyps, lexicon = worked
    hyps["target"]["adapted"]["4"] = "<stop> & abba"
    for name, systems in hyps.items():
        for system, texts in systems.items():
            save_hypotheses(tmp_path, name, system, texts)
    curves = {"prompt": [{"step": 1, "loss": 2.0}], "decoder": [{"step": 1, "loss": 2, "dev_loss": 1.5}]}
    scores = score(sets, hyps, lexicon, "none", resamples=50)
    save_scores(tmp_path, scores, sets, curves, "name: <music>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert scores.signature in page and "name: &lt;music&gt;" in page
    assert "&lt;stop&gt;" in page and "<stop>" not in page and "<script" not in page
    assert page.count("<svg ") == 3 and "prefers-color-scheme" in page
    assert report(tmp_path) == page
    assert json.loads((tmp_path / "scores/metrics.json").read_text())["rows"] == scores.to_json()["rows"]
    assert {p.name for p in (tmp_path / "scores").iterdir()} == {"metrics.json", "errors.tsv", "table.md"}
    save_scores(tmp_path, score(sets, hyps, lexicon, resamples=50), sets)
    page = report(tmp_path)
    assert page.count("<svg ") == 1
    assert "Let It Be" in page.partition("gained and lost")[2] and "hi high" in page.partition("entity errors of")[2]


def test_a_system_whose_name_begins_with_a_line_is_in_the_legend(worked, tmp_path):
    sets, hyps, lexicon = worked
    hyps = {name: {f"_{system}": texts for system, texts in systems.items()} for name, systems in hyps.items()}
    for name, systems in hyps.items():
        for system, texts in systems.items():
            save_hypotheses(tmp_path, name, system, texts)
    save_scores(tmp_path, score(sets, hyps, lexicon, resamples=50), sets)
    assert "_adapted" in report(tmp_path).partition("WER against EER")[2]


def test_nothing_of_torch_is_imported():
    code = "import sys, adapt.score.report, adapt.score.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lenience_scores_what_is_common(worked):
    sets, hyps, lexicon = worked
    del hyps["target"]["adapted"]["1"], hyps["target"]["base"]["2"]
    hyps["target"]["base"]["x"] = "more"
    scores = score(sets, hyps, lexicon, resamples=10, lenient=True)
    assert [row.counts["utterances"] for row in scores.rows] == [2, 2, 1]
    assert "|utts:2+1|lenient:of 4+1|" in scores.signature
    with pytest.raises(DataError, match="no utterance has a hypothesis of every system"):
        score(sets, {"target": {"base": {}}}, None, lenient=True)


words = st.lists(st.sampled_from(["let", "it", "be", "queen", "dancing", "x", "y"]), max_size=8).map(" ".join)
systems = st.lists(st.tuples(words, words), min_size=1, max_size=6)
PHRASES = Lexicon("m", "", (Entry("let it be", "track"), Entry("queen", "artist"), Entry("dancing queen", "track")))
FIGURES = ("wer", "cer", "eer", "false_alarms_per_1k")


def scored(pairs):
    utterances, hyps = as_set(pairs)
    return score({"t": utterances}, {"t": {"base": hyps}}, PHRASES, resamples=5).rows[0]


@given(systems, st.randoms())
def test_scores_hold_for_any_text(pairs, rng):
    row = scored(pairs)
    assert row.eer is None if not row.counts["mentions"] else 0 <= row.eer <= 1
    assert row.recall is None if row.eer is None else row.recall == pytest.approx(1 - row.eer)
    of_types = row.counts["by_type"].values()
    assert sum(t["mentions"] for t in of_types) == row.counts["mentions"]
    assert sum(t["wrong"] for t in of_types) == row.counts["wrong"]
    same = scored([(ref, ref) for ref, _ in pairs])
    assert {getattr(same, figure) for figure in FIGURES} <= {0.0, None}
    utterances, hyps = as_set(pairs)
    rng.shuffle(utterances)
    assert score({"t": utterances}, {"t": {"base": hyps}}, PHRASES, resamples=5).rows[0] == row


@given(systems, st.sampled_from(["queen", "let it be", "dancing queen"]), st.integers(0, 5))
def test_a_hallucinated_entity_never_lowers_an_error_figure(pairs, entity, place):
    place %= len(pairs)
    ref, hyp = pairs[place]
    assume(not set(entity.split()) & set(ref.split()))  # else it may be what was said
    more = scored([*pairs[:place], (ref, f"{hyp} {entity}".strip()), *pairs[place + 1 :]])
    before = scored(pairs)
    for figure in ("wer", "eer", "b_wer", "false_alarms_per_1k"):
        assert (getattr(more, figure) or 0) >= (getattr(before, figure) or 0), figure


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
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    total = next(line for line in told.splitlines() if "| Sum" in line)
    _, words, _, substitutions, deletions, insertions, *_ = map(int, re.findall(r"\d+", total))
    return words, substitutions, deletions, insertions


def sclite_counts(row):
    return tuple(row.counts[key] for key in ("words", "substitutions", "deletions", "insertions"))


@pytest.mark.skipif(not SCLITE, reason="sctk: NIST sclite is not installed")
def test_totals_equal_sclite(tmp_path):
    pairs = list(random_pairs(1000, seed=2))
    utterances, hyps = as_set(pairs)
    theirs = sclite(pairs, tmp_path)
    row = score({"t": utterances}, {"t": {"base": hyps}}, None, "none", resamples=5, convention="is21").rows[0]
    assert sclite_counts(row) == theirs
    # sclite weighs a substitution 4 and the others 3, so that it may count more edits than are needed.
    row = score({"t": utterances}, {"t": {"base": hyps}}, None, "none", resamples=5).rows[0]
    assert sclite_counts(row)[0] == theirs[0] and 0 <= sum(theirs[1:]) - sum(sclite_counts(row)[1:]) < 10


@needs_data
def test_slurp(tmp_path):
    text = (DATA / "slurp/derived_test_ref_hyp.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    utterances = [
        Utterance(r["id"], r["ref"], entities=tuple(Entity(e["value"], e["type"]) for e in r["entities"])) for r in rows
    ]
    row = score({"t": utterances}, {"t": {"s": {r["id"]: r["hyp"] for r in rows}}}, None, resamples=5).rows[0]
    assert f"{row.wer:.2%}" == "18.17%"
    assert f"{row.eer:.2%}" == "21.46%"
    # The plain match: the words of the annotation, as they are written, stand nowhere in the hypothesis.
    plain = [f" {e['value']} " not in f" {' '.join(r['hyp'].split())} " for r in rows for e in r["entities"]]
    assert len(plain) == 11_894 and f"{np.mean(plain):.2%}" == "23.15%"
    assert row.counts["mentions"] + row.counts["unplaced_entities"] == 11_894
    if SCLITE:
        pairs = [tuple(basic(r[key]) for key in ("ref", "hyp")) for r in rows]
        utterances, hyps = as_set(pairs)
        row = score({"t": utterances}, {"t": {"s": hyps}}, None, "none", resamples=5, convention="is21").rows[0]
        assert sclite_counts(row) == sclite(pairs, tmp_path)


PUBLISHED = sorted((DATA / "fbai_deep_bias/results").glob("*.result")) or [None]


@needs_data
@pytest.mark.parametrize("published", PUBLISHED, ids=lambda path: path and path.name.split(".")[1])
def test_is21_equals_the_published_figures(published):
    references = read_references(DATA / "fbai_deep_bias/ref/test-clean.biasing_100.tsv.gz")
    hyps = read_hypothesis_texts(DATA / "fbai_deep_bias/hyp" / published.name.removesuffix(".result"))
    row = score({"t": references}, {"t": {"s": hyps}}, None, "none", resamples=5, convention="is21").rows[0]
    n = row.counts
    errors = n["substitutions"] + n["deletions"] + n["insertions"]
    biased = n["biased_errors"], n["biased_words"]
    ours = [(errors, n["words"]), (errors - biased[0], n["words"] - biased[1]), biased]
    assert [row.wer, row.u_wer, row.b_wer] == [wrong / of for wrong, of in ours]
    theirs = re.findall(r"error_rate=(\S+),", published.read_text())
    assert [str(100.0 * wrong / of) for wrong, of in ours] == theirs
