"""Text of the music recipe in tokens, an n-gram model of it, and a small ARPA."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapt.lm.estimate import estimate, write_arpa
from adapt.model.bases import find_base

MUSIC = Path(__file__).parents[2] / "recipes/music/text.txt"
# With two words to fill in.
ARPA = """\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.6\t</s>
-0.5\t{0}\t-0.3
-0.7\t{1}\t-0.1

\\2-grams:
-0.2\t<s> {0}\t-0.4
-0.3\t{0} {1}\t-0.2
-0.25\t{1} {0}\t-0.15
-0.1\t{1} </s>

\\3-grams:
-0.05\t<s> {0} {1}
-0.6\t{0} {1} {0}

\\end\\
"""


@pytest.fixture(scope="module")
def sentences() -> list[list[int]]:
    """The music sentences in the base model's tokens, 223,000 of them, from last to first (lmplz.py says why)."""
    from transformers import AutoTokenizer

    lines = [line for line in MUSIC.read_text(encoding="utf-8").lower().splitlines() if line.strip()]
    return AutoTokenizer.from_pretrained(find_base("tiny"))(lines[::-1], add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def model(sentences, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "tokens.arpa"
    write_arpa(estimate(sentences[:8000], 1000, 4, (0, 0, 1)), path)
    return path
