from __future__ import annotations

import json

from adapt.score.scoring import score_systems
from adapt.text.manifest import Entity, Utterance

KEYS = [
    *("set", "system", "wer", "wer_ci", "cer", "eer", "eer_ci", "eer_seen", "eer_unseen", "u_wer", "b_wer"),
    *("precision", "recall", "f1", "false_alarms_per_1k", "by_type", "counts", "p_wer", "p_eer"),
]
SYSTEMS = (("base", 300), ("new", 299))  # words that are wrong in each utterance


def test_scores_as_json_and_as_a_table(worked):
    scores = score_systems(*worked, seen=frozenset({"abba"}), resamples=200)
    data = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert data["signature"].startswith("wer|norm:basic|lex:music@3f9c1e|utts:4+1|bs:200|seed:1|v:")
    assert [list(row) for row in data["rows"]] == [KEYS] * 3
    table = scores.table().splitlines()
    assert table[0].split() == ["set", "system", "WER", "EER", "seen", "unseen", "artist", "term", "track"]
    assert table[1].split()[:3] == ["target", "base", "46.7"] and "±" not in table[1]
    assert table[3].split()[-1] == "n/a"
    assert table[-1] == data["signature"]
    assert table[4].startswith("target, adapted: WER 46.7 -> 13.3, 71 % lower, too few utterances to compare")
    assert table[-2] == "WER and EER without ±: fewer than 30 utterances, too few for intervals and p-values"
    assert data["sentences"] == table[4:-1]
    markdown = scores.markdown().splitlines()
    assert markdown[0].startswith("| set | system | WER | EER | seen |") and markdown[1].startswith(
        "| --- | --- | ---: |"
    )
    assert scores.errors_tsv().splitlines()[0] == "set\tsystem\tcount\ttype\tentity\tsaid\theard"


def test_few_utterances_have_neither_interval_nor_star_and_enough_have_both():
    def scored(count: int):
        references = [Utterance(str(i), " ".join(["a"] * 300)) for i in range(count)]
        systems = {name: {u.id: " ".join(["b"] * n + ["a"] * (300 - n)) for u in references} for name, n in SYSTEMS}
        return score_systems({"t": references}, {"t": systems}, None, resamples=200)

    few, enough = scored(29), scored(30)
    assert [(row.wer_ci, row.p_wer) for row in few.rows] == [(None, None)] * 2
    assert few.sentences()[0] == "t, new: WER 100.0 -> 99.7, 0 % lower, too few utterances to compare"
    assert "*" not in few.table() and "±" in enough.table()
    assert enough.rows[1].p_wer < 0.05


def test_a_bar_in_a_type_does_not_break_the_markdown_table():
    references = [Utterance("1", "play abba", entities=(Entity("abba", "artist|band"),))]
    table = score_systems({"t": references}, {"t": {"base": {"1": "play abba"}}}, None, resamples=10).markdown()
    assert table.splitlines()[0] == r"| set | system | WER | EER | artist\|band |"
