"""ARPA files from text: over a decoder's tokens, with a JSON file that names the tokenizer, and over words."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import subprocess
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from adapt.errors import DataError
from adapt.lm import arpa, ngram
from adapt.lm.estimate import estimate, write_arpa
from adapt.text.files import read_bytes

LMPLZ_TOKENS = 20_000_000  # lmplz estimates larger texts: numpy needs 250 bytes per token at order 4


class Tokenizer(Protocol):
    """The methods of a tokenizer that this module calls."""

    def encode(self, text: str, add_special_tokens: bool, split_special_tokens: bool) -> list[int]: ...

    def get_vocab(self) -> dict[str, int]: ...


def build_tokens(
    lines: Sequence[str],
    dev: Sequence[str],
    tokenizer: Tokenizer,
    vocabulary: int,
    order: int,
    prune: Sequence[int],
    out: Path,
    existing: Path | None = None,
) -> None:
    """Write an ARPA over the tokens of `lines` to `out`, and a JSON file beside it.

    The JSON holds the tokenizer's `vocabulary_hash` and, for each order, the perplexity on `dev`, per token and end of
    sentence, and how many tokens of `dev` the model has not seen. existing: an ARPA over these tokens to copy instead
    of estimating one.
    """
    if existing:
        check_vocabulary(existing, tokenizer)
        ngram.load_ngrams(existing, vocabulary)  # raises its errors before `out` is overwritten

    def encoded(line: str) -> array:
        return array("i", tokenizer.encode(line, add_special_tokens=False, split_special_tokens=True))

    ids, held_out = list(map(encoded, lines)), list(map(encoded, dev))
    orders = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for k in [order] if existing else range(1, order + 1):
        if existing:
            arpa.to_decimals(existing, out)
        else:
            _estimate(ids, vocabulary, k, prune, out)
        model = arpa.read_arpa(out)
        automaton = ngram.load_ngrams(out, vocabulary)
        tokens = sum(map(len, held_out)) + len(held_out)
        known = set(model.tokens[0][:, 0].tolist())
        orders.append(
            {
                "order": len(model.tokens),
                "ngrams": sum(map(len, model.tokens)),
                "perplexity": math.exp(-float(automaton.totals(held_out).double().sum()) / tokens),
                "unseen": sum(token not in known for sentence in held_out for token in sentence),
            }
        )
    description = {"vocabulary": vocabulary_hash(tokenizer), "orders": orders}
    out.with_suffix(".json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def build_words(
    lines: Sequence[str], order: int, prune: Sequence[int], out: Path, existing: Path | None = None
) -> None:
    """Write an ARPA over the words of `lines`. existing: an ARPA of words to copy instead of estimating one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if existing:
        if (kind := arpa.kind(existing)) != "words":
            description = "a binary of KenLM" if kind == "binary" else "an ARPA of token ids"
            raise DataError(f"{existing}: {description}; --decoder ctc needs an ARPA of words")
        out.write_bytes(read_bytes(existing))
        return
    words = dict.fromkeys(word for line in lines for word in line.split())
    number = {word: i for i, word in enumerate(words)}
    sentences = [array("i", [number[word] for word in line.split()]) for line in lines]
    write_arpa(estimate(sentences, len(words), order, prune), out, list(words))


def _estimate(ids: Sequence[Sequence[int]], vocabulary: int, order: int, prune: Sequence[int], out: Path) -> None:
    """Write an ARPA of sentences of token ids. KenLM's lmplz, if it is on PATH, estimates large texts.

    Raises DataError if lmplz fails.
    """
    if sum(map(len, ids)) <= LMPLZ_TOKENS or not (lmplz := shutil.which("lmplz")) or order < 2:
        write_arpa(estimate(ids, vocabulary, order, prune), out)
        return
    command = [lmplz, "-o", str(order), "--discount_fallback", "--arpa", str(out), "-T", str(out.parent)]
    command += ["--prune", *map(str, prune[:order])] if any(prune[:order]) else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        # lmplz reads its whole input before it prints much, so that the pipe of its messages cannot fill up.
        with contextlib.suppress(BrokenPipeError):  # if it ends early, its messages say why
            process.stdin.writelines(" ".join(map(str, sentence)) + "\n" for sentence in ids)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        messages = process.stderr.read()
    if process.returncode:
        reason = (messages.strip().splitlines() or ["it gave no reason"])[-1]
        raise DataError(f"lmplz: failed: {reason}; repair it, or remove it from PATH")


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """The first 16 hex digits of a hash of a tokenizer's tokens and their ids."""
    tokens = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(tokens.encode()).hexdigest()[:16]


def check_vocabulary(path: Path, tokenizer: Tokenizer) -> None:
    """Raises DataError if the JSON beside an ARPA names another tokenizer. An ARPA without a JSON is not checked."""
    description = Path(path).with_suffix(".json")
    if not description.is_file():
        return
    try:
        vocabulary = json.loads(description.read_text(encoding="utf-8"))["vocabulary"]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{description}: not the JSON that `adapt lm` writes beside an ARPA; make both again with `adapt lm`"
        ) from None
    if vocabulary != vocabulary_hash(tokenizer):
        raise DataError(f"{path}: made with another tokenizer than the decoder's; make it again with `adapt lm`")
