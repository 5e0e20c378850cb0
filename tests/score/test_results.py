from __future__ import annotations

import json

from adapt.score.scoring import score_systems

KEYS = [
    *("set", "system", "wer", "wer_ci", "cer", "eer", "eer_ci", "eer_seen", "eer_unseen", "u_wer", "b_wer"),
    *("precision", "recall", "f1", "false_alarms_per_1k", "by_type", "counts", "p_wer", "p_eer"),
]


def test_scores_as_json_and_as_a_table(worked):
    scores = score_systems(*worked, seen=frozenset({"abba"}), resamples=200)
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
