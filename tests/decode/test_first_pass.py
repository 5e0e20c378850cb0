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
        ("play 99 red balloons", "play ninety five red balloons", False),
        ("enter 6 49", "enter six forty nine", True),
        ("enter 649", "enter six four nine", True),
        ("enter 649", "enter sixty four ninety", False),
        ("the 2 nd of june costs $ 1,200", "the second of june costs twelve hundred dollars", True),
        ("1 of us", "one of us", True),
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
