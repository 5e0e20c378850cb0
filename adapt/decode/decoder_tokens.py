"""The tokens of the decoder of a speech LLM, for the parts of fusion."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from adapt.lm.phrases import Phrase, tokenise, word_beginnings

if TYPE_CHECKING:
    from adapt.model.speech_llm import SpeechLLM
    from adapt.text.lexicon import Entry


class DecoderTokens:
    """The decoder's tokens. normalise: applied to text before it is tokenised.

    size: the number of the decoder's outputs, which may exceed that of its tokens. ends: tokens that end a transcript.
    special: other special tokens. strings: each token as the tokenizer writes it; "" for an output without a token.
    """

    def __init__(self, speech_llm: SpeechLLM, normalise: Callable[[str], str]):
        self.speech_llm, self.normalise = speech_llm, normalise
        tokenizer = speech_llm.tokenizer
        self.size, self.ends = speech_llm.vocabulary, speech_llm.ends
        self.special = [i for i in tokenizer.all_special_ids if i not in self.ends]
        strings = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), self.size))))
        self.strings = [string or "" for string in strings] + [""] * (self.size - len(strings))

    @functools.cached_property
    def begin_word(self) -> np.ndarray:
        """Whether each token begins a word, `[size]`."""
        return np.array(word_beginnings(self.strings))

    @functools.cached_property
    def text_strings(self) -> list[str]:
        """`strings`, with "" for special tokens too."""
        without_text = {*self.speech_llm.tokenizer.all_special_ids, *self.ends}
        return ["" if i in without_text else string for i, string in enumerate(self.strings)]

    def phrases(self, entries: Iterable[Entry]) -> list[Phrase]:
        """Lexicon entries as token sequences. Entries that cannot be written in tokens are left out."""
        tokenizer = self.speech_llm.tokenizer
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        return tokenise(entries, encode, self.normalise, tokenizer.unk_token_id)
