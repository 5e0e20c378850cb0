"""A tokenizer of our own, for a decoder that is trained from scratch, and its letters when it goes on."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterable

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

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


def unwritable(tokenizer: PreTrainedTokenizerBase, letters: str) -> str:
    """Those of `letters` that the tokenizer knows nothing of; byte-level ones know them all."""
    unknown = tokenizer.unk_token_id
    return "".join(c for c in letters if unknown in tokenizer.encode(c, add_special_tokens=False))


def extensible(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `with_letters` can give it more: it is a unigram model, and all of its tokens are pieces."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model["type"] == "Unigram" and len(model["vocab"]) == len(tokenizer)


@torch.no_grad()
def with_letters(
    llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, letters: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Both with a piece for each of `letters` that is `unwritable`; as they are where none is.

    Its embedding begins as that of the letter without its mark (`a` for `ä`), or as the mean of all.
    """
    missing = unwritable(tokenizer, letters)
    if not missing:
        return llm, tokenizer
    state, known = json.loads(tokenizer.backend_tokenizer.to_str()), len(tokenizer)
    rarest = min(score for _, score in state["model"]["vocab"])
    state["model"]["vocab"] += [[letter, rarest] for letter in missing]
    more = type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **tokenizer.special_tokens_map,
    )
    if len(more) > llm.get_input_embeddings().num_embeddings:
        llm.resize_token_embeddings(len(more), mean_resizing=False)
    for weight in (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight):
        for row, letter in enumerate(missing, known):
            like = tokenizer.convert_tokens_to_ids(unicodedata.normalize("NFD", letter)[0])
            weight[row] = weight[:known].mean(0) if like == tokenizer.unk_token_id else weight[like]
    return llm, more
