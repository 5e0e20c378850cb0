"""Train the tokenizer of a new decoder, and add missing letters to an existing tokenizer."""

from __future__ import annotations

import functools
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from adapt.errors import DataError
from adapt.text.template import SLOT

SPECIAL = [SLOT, "<text>"]


def train_tokenizer(sentences: Iterable[str], vocab_size: int, letters: str = "") -> PreTrainedTokenizerFast:
    """A sentencepiece unigram model (1804.10959) of `vocab_size` tokens, as a fast tokenizer of transformers.

    letters: characters that get their own token even if no sentence has them. Ids: unknown 0, beginning 1, end 2,
    padding 3. Raises `DataError` if the text has too few different words for `vocab_size`, or too many letters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            pad_id=3,
            user_defined_symbols=SPECIAL,
            required_chars=letters.replace(" ", ""),
            character_coverage=1.0,
            normalization_rule_name="identity",
            minloglevel=2,
        )
    except RuntimeError as error:
        problem = f"a vocabulary of {vocab_size} tokens cannot be learned from the text"
        if most := re.search(r"value <= (\d+)", str(error)):
            raise DataError(f"{problem}, which has too few different words; give at most {most[1]}") from error
        if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            raise DataError(f"{problem}, which has more letters than that; give at least {least[1]}") from error
        raise DataError(f"{problem}: {str(error).strip().splitlines()[-1]}; give another size") from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scores = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(vocab_size)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, additional_special_tokens=SPECIAL)


def with_leading_space(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer that puts a space before every text; others unchanged (in place).

    The first word of a transcript then has the same tokens as inside a sentence, which an LLM knows best.
    """
    if tokenizer.is_fast and isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def word_ids(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """The function that returns the token ids of a word inside a sentence."""
    before = tokenizer.encode("a", add_special_tokens=False)

    @functools.lru_cache(maxsize=100_000)
    def ids(word: str) -> list[int]:
        return tokenizer.encode(f"a {word}", add_special_tokens=False, split_special_tokens=True)[len(before) :]

    return ids


def unwritable(tokenizer: PreTrainedTokenizerBase, letters: str) -> str:
    """The letters that the tokenizer encodes as unknown; none for a byte-level tokenizer."""
    unknown = tokenizer.unk_token_id
    return "".join(c for c in letters if unknown in tokenizer.encode(c, add_special_tokens=False))


def extensible(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `with_letters` can add letters: for unigram models without added tokens."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model["type"] == "Unigram" and len(model["vocab"]) == len(tokenizer)


@torch.no_grad()
def with_letters(
    llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, letters: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """LLM and tokenizer with a token for each of `letters` that is `unwritable`; unchanged if there are none.

    The initial embedding of a new token is that of the letter without its diacritic (`a` for `ä`), or the mean of all
    embeddings if the tokenizer lacks that letter too.
    """
    missing = unwritable(tokenizer, letters)
    if not missing:
        return llm, tokenizer
    state, old_size = json.loads(tokenizer.backend_tokenizer.to_str()), len(tokenizer)
    rarest = min(score for _, score in state["model"]["vocab"])
    state["model"]["vocab"] += [[letter, rarest] for letter in missing]
    extended = type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **tokenizer.special_tokens_map,
    )
    if len(extended) > llm.get_input_embeddings().num_embeddings:
        llm.resize_token_embeddings(len(extended), mean_resizing=False)
    for weight in (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight):
        for row, letter in enumerate(missing, old_size):
            base_letter = tokenizer.convert_tokens_to_ids(unicodedata.normalize("NFD", letter)[0])
            weight[row] = weight[:old_size].mean(0) if base_letter == tokenizer.unk_token_id else weight[base_letter]
    return llm, extended
