from __future__ import annotations

import subprocess
import sys

import jiwer
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapt.errors import DataError
from adapt.score.scoring import score_systems
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import Entity, Utterance


def test_totals_equal_jiwer(random_pairs, as_set):
    utterances, hyps = as_set(random_pairs(500))
    row = score_systems({"t": utterances}, {"t": {"base": hyps}}, None, "none", resamples=10).rows[0]
    theirs = jiwer.process_words([u.text for u in utterances], list(hyps.values()))
    found = tuple(row.counts[key] for key in ("substitutions", "deletions", "insertions"))
    assert found == (theirs.substitutions, theirs.deletions, theirs.insertions)
    assert row.wer == pytest.approx(theirs.wer)
    assert row.cer == pytest.approx(jiwer.cer([u.text for u in utterances], list(hyps.values())))
    assert (row.eer, row.eer_ci, row.b_wer, row.u_wer, row.false_alarms_per_1k) == (None,) * 5


def test_the_worked_example_has_the_figures_counted_by_hand(worked):
    scores = score_systems(*worked, seen=frozenset({"abba"}), resamples=200)
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
    assert (adapted.p_wer, adapted.wer_ci, adapted.p_eer, adapted.eer_ci) == (None,) * 4, "four utterances are too few"
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


def test_order_of_utterances_changes_nothing(worked):
    sets, hyps, lexicon = worked
    turned = {name: utterances[::-1] for name, utterances in sets.items()}
    assert (
        score_systems(turned, hyps, lexicon, resamples=50).rows == score_systems(sets, hyps, lexicon, resamples=50).rows
    )


def test_other_systems_change_no_figure_of_one(random_pairs):
    pairs = random_pairs(60)
    utterances = [Utterance(str(i), ref) for i, (ref, _) in enumerate(pairs)]
    base, own, other = ({str(i): hyp for i, (_, hyp) in enumerate(random_pairs(60, seed))} for seed in (1, 2, 3))
    alone, beside = (
        score_systems({"test": utterances}, {"test": systems}, None, resamples=50).rows
        for systems in ({"base": base, "own": own}, {"base": base, "other": other, "own": own})
    )
    assert alone == (beside[0], beside[2]) and alone[1].p_wer is not None


def test_mismatched_ids_and_names_are_errors(worked):
    sets, hyps, lexicon = worked
    hyps["target"]["adapted"] = {"1": "", "x": "", "y": ""}
    with pytest.raises(DataError) as error:
        score_systems(sets, {**hyps, "other": {}}, lexicon)
    missing, unknown, empty = error.value.problems
    assert "target, adapted: hypothesis of '2' and 2 more missing" in missing
    assert "hypothesis of 'x' and 1 more unknown" in unknown
    assert "'other'" in empty
    with pytest.raises(DataError, match="unknown normaliser 'basik'"):
        score_systems(sets, hyps, lexicon, "basik")


def test_lenient_scoring_takes_what_references_and_hypotheses_share(worked):
    sets, hyps, lexicon = worked
    del hyps["target"]["adapted"]["1"], hyps["target"]["base"]["2"]
    hyps["target"]["base"]["x"] = "more"
    scores = score_systems(sets, hyps, lexicon, resamples=10, lenient=True)
    assert [row.counts["utterances"] for row in scores.rows] == [2, 2, 1]
    assert "|utts:2+1|lenient:of 4+1|" in scores.signature
    with pytest.raises(DataError, match="no utterance has a hypothesis of every system"):
        score_systems(sets, {"target": {"base": {}}}, None, lenient=True)


def test_scripts_without_spaces_are_scored_by_characters():
    utterances = [Utterance("1", "播放邓丽君的歌"), Utterance("2", "play 邓丽君 的 歌"), Utterance("3", "เปิดเพลง")]
    hyps = {"1": "播放邓丽军的歌", "2": "play 邓丽君的歌", "3": "เปิดเพง"}
    scores = score_systems({"t": utterances}, {"t": {"base": hyps}}, Lexicon("m", "", (Entry("邓丽君"),)), resamples=5)
    row = scores.rows[0]
    assert (row.counts["words"], row.counts["substitutions"], row.counts["deletions"]) == (7 + 6 + 7, 1, 1)
    assert (row.counts["mentions"], row.counts["wrong"]) == (2, 1)
    assert scores.errors[0].heard == "邓丽军"
    assert "|tok:words+characters|" in scores.signature and "WER counts each character of Chinese" in scores.table()


def test_english_says_that_it_is_for_english():
    texts = [Utterance("1", "गाना चलाओ"), Utterance("2", "play a song")]
    notes = score_systems({"t": texts}, {"t": {"base": {"1": "", "2": ""}}}, None, "english", resamples=5).notes
    assert notes == (
        "the normaliser english is for English, and drops letters of others; 1 of 2 references are in another script, "
        "such as 'गाना चलाओ': choose basic",
    )


def test_entities_that_are_not_scored_are_named():
    names = [f"(name {number})" for number in range(5)]
    utterances = [Utterance(name, f"play {name}", entities=(Entity(name, "x"),)) for name in names]
    scores = score_systems({"t": utterances}, {"t": {"base": dict.fromkeys(names, "play")}}, None, "english")
    assert scores.sentences()[-1] == (
        "t: 5 entities are not in their normalised references, and are not scored: such as "
        "'(name 0)', '(name 1)', '(name 2)'"
    )
    assert scores.rows[0].counts["unplaced_entities"] == 5


def test_scoring_does_not_import_torch():
    code = "import sys, adapt.score.report, adapt.score.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


words = st.lists(st.sampled_from(["let", "it", "be", "queen", "dancing", "x", "y"]), max_size=8).map(" ".join)
systems = st.lists(st.tuples(words, words), min_size=1, max_size=6)
PHRASES = Lexicon("m", "", (Entry("let it be", "track"), Entry("queen", "artist"), Entry("dancing queen", "track")))
FIGURES = ("wer", "cer", "eer", "false_alarms_per_1k")


def scored(as_set, pairs):
    utterances, hyps = as_set(pairs)
    return score_systems({"t": utterances}, {"t": {"base": hyps}}, PHRASES, resamples=5).rows[0]


@given(systems, st.randoms())
def test_scores_hold_for_any_text(as_set, pairs, rng):
    row = scored(as_set, pairs)
    assert row.eer is None if not row.counts["mentions"] else 0 <= row.eer <= 1
    assert row.recall is None if row.eer is None else row.recall == pytest.approx(1 - row.eer)
    of_types = row.counts["by_type"].values()
    assert sum(t["mentions"] for t in of_types) == row.counts["mentions"]
    assert sum(t["wrong"] for t in of_types) == row.counts["wrong"]
    same = scored(as_set, [(ref, ref) for ref, _ in pairs])
    assert {getattr(same, figure) for figure in FIGURES} <= {0.0, None}
    utterances, hyps = as_set(pairs)
    rng.shuffle(utterances)
    assert score_systems({"t": utterances}, {"t": {"base": hyps}}, PHRASES, resamples=5).rows[0] == row


@given(systems, st.sampled_from(["queen", "let it be", "dancing queen"]), st.integers(0, 5))
def test_a_hallucinated_entity_never_lowers_an_error_figure(as_set, pairs, entity, place):
    place %= len(pairs)
    ref, hyp = pairs[place]
    assume(not set(entity.split()) & set(ref.split()))  # else it may be what was said
    more = scored(as_set, [*pairs[:place], (ref, f"{hyp} {entity}".strip()), *pairs[place + 1 :]])
    before = scored(as_set, pairs)
    # Not B-WER: the new word may align others anew, with as few edits, and move errors out of a mention.
    for figure in ("wer", "eer", "false_alarms_per_1k"):
        assert (getattr(more, figure) or 0) >= (getattr(before, figure) or 0), figure
