"""A tokenizer of our own, for a decoder that is trained from scratch."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adapt.errors import DataError
from adapt.text.template import SLOT

SPECIAL = [SLOT, "<text>"]


def train_tokenizer(sentences: Iterable[str], pieces: int, letters: str = "") -> PreTrainedTokenizerFast:
    """A sentencepiece unigram model (1804.10959) of `pieces` pieces, as the fast tokenizer that transformers loads.

    letters: characters that have a piece of their own even where no sentence has them. Ids: unknown 0, beginning 1,
    end 2, padding 3. Raises `DataError` when the text has too few different words for `pieces`, or too many letters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=pieces,
            model_type="unigram",
            pad_id=3,
            user_defined_symbols=SPECIAL,
            required_chars=letters.replace(" ", ""),
            character_coverage=1.0,
            normalization_rule_name="identity",
            minloglevel=2,
        )
    except RuntimeError as error:
        told = f"llm.pieces: {pieces} cannot be learned from the text"
        if most := re.search(r"value <= (\d+)", str(error)):
            raise DataError(f"{told}, which has too few different words; give at most {most[1]}") from error
        if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            raise DataError(f"{told}, which has more letters than that; give at least {least[1]}") from error
        raise DataError(f"{told}: {str(error).strip().splitlines()[-1]}") from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scores = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, additional_special_tokens=SPECIAL)
