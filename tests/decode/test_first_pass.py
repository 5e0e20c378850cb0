"""The decoder's transcripts beside the one that the encoder wrote."""

from __future__ import annotations

import pytest

from adapt.decode.first_pass import COPIED, favouring_copy
from adapt.decode.hypothesis import Hypothesis


@pytest.mark.parametrize(
    ("copy", "text", "favoured"),
    [
        ("play 99 red balloons", "play 99 red balloons", True),
        ("play 99 red balloons", "play ninety nine red balloons", True),
        ("play 99 red balloons", "play ninety nine rad balloons", False),
        ("play 99 red balloons", "play 98 red balloons", False),
        ("play 99 red balloons", "play red balloons", False),
        ("line 42", "line forty two", True),
        ("what (is) it", "what (is) it", True),
        ("who is it", "who was it", False),
        ("", "", True),
        ("", "hello", False),
    ],
)
def test_the_copy_is_favoured_and_may_read_its_numbers(copy, text, favoured):
    (found,) = favouring_copy([Hypothesis(text, 3, -2.0)], copy)
    assert found == Hypothesis(text, 3, -2.0 + (COPIED if favoured else 0.0))
