from __future__ import annotations

import random

import pytest
import torch

from adapt.train.common import best_row, by_length, draw, has_stalled, mean_loss


def test_batches_are_drawn_among_rows_of_similar_length():
    rows = ["a" * (1 + (7 * i) % 100) for i in range(100)]
    ordered = by_length(rows)
    assert [len(rows[i]) for i in ordered] == sorted(map(len, rows))
    for place in (0.0, 0.3, 1.0):
        drawn = draw(random.Random(1), ordered, 8, place)
        lengths = [len(rows[i]) for i in drawn]
        assert len(drawn) == 8 and max(lengths) - min(lengths) < 8
    assert len(draw(random.Random(1), [0, 1], 5, 1.0)) == 5, "fewer rows than drawn: some come twice"


def test_the_mean_loss_is_over_tokens_and_not_over_batches(tiny):
    targets = [tiny.target_ids(text) for text in ("play the song", "stop", "tell me what it is")]
    embeddings = [torch.ones(2, tiny.hidden), None, tiny.empty_slot]
    alone = [mean_loss(tiny, [row], [target]) for row, target in zip(embeddings, targets, strict=True)]
    counts = [len(target) for target in targets]
    wanted = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert mean_loss(tiny, embeddings, targets) == pytest.approx(wanted, rel=1e-5)


def test_training_stalls_after_so_many_evaluations_without_a_better_one():
    log = [{"dev_loss": loss} for loss in (3.0, 2.0, 2.5, 2.1)]
    assert has_stalled(log, 2) and not has_stalled(log, 3)
    assert not has_stalled([*log, {"loss": 9.0}, {"dev_loss": 1.9}], 1)


def test_the_first_evaluation_is_kept_where_all_others_fail_the_guard():
    log = [{"step": step, "dev_loss": 3.0 - step, "guard_loss": 1.0 + step} for step in range(3)]
    assert best_row(log, guard_tolerance=0.5)["step"] == 0
