"""Cosines of audio and token embeddings, and how far they increase with the order of the tokens."""

from __future__ import annotations

import numpy as np

from adapt.model.cosine_alignment import cosines, monotonicity, picture


def test_cosines_are_one_for_the_embeddings_of_the_tokens(tiny):
    ids = tiny.tokenizer.encode("play the song", add_special_tokens=False)
    matrix = cosines(tiny, 3 * tiny.embed(ids).detach(), ids)
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-5)
    assert matrix.shape == (len(ids), len(ids)) and abs(matrix).max() < 1 + 1e-5


def test_monotonicity_is_high_in_order_and_zero_without_order():
    rng = np.random.default_rng(0)
    assert monotonicity(np.kron(np.eye(6), np.ones((2, 1))), rng) > 0.4
    assert monotonicity(np.ones((12, 6)), rng) == 0
    assert monotonicity(np.ones((3, 1)), rng) is None, "fewer than two tokens"
    assert monotonicity(np.ones((3, 4)), rng) is None, "fewer audio embeddings than tokens"


def test_a_picture_has_a_panel_for_each_matrix(tmp_path):
    panels = {"letters": (np.eye(3), list("abc")), "tokens": (np.eye(2), ["ab", "c"])}
    picture(panels, "abc", tmp_path / "new/0.png")
    assert (tmp_path / "new/0.png").stat().st_size > 1_000
