from __future__ import annotations

from adapt.score.files import save_hypotheses
from adapt.score.report import report, save_scores
from adapt.score.scoring import score_systems


def test_a_system_whose_name_begins_with_a_line_is_in_the_legend(worked, tmp_path):
    sets, hyps, lexicon = worked
    hyps = {name: {f"_{system}": texts for system, texts in systems.items()} for name, systems in hyps.items()}
    for name, systems in hyps.items():
        for system, texts in systems.items():
            save_hypotheses(tmp_path, name, system, texts)
    save_scores(tmp_path, score_systems(sets, hyps, lexicon, resamples=50), sets)
    assert "_adapted" in report(tmp_path).partition("WER against EER")[2]
