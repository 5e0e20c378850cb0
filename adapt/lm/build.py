"""From text to ARPA files: over a decoder's tokens, with what says so beside it, and over words."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from adapt.errors import DataError
from adapt.lm import arpa, ngram
from adapt.lm.estimate import estimate, write_arpa
from adapt.text.corpus import read_bytes

LMPLZ_TOKENS = 20_000_000  # above, numpy wants more memory than most have: 250 bytes a token at order 4


class Tokenizer(Protocol):
    """What is asked of a tokenizer here."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...

    def get_vocab(self) -> dict[str, int]: ...


def build_tokens(
    lines: Sequence[str],
    dev: Sequence[str],
    tokenizer: Tokenizer,
    vocabulary: int,
    order: int,
    prune: Sequence[int],
    out: Path,
    given: Path | None = None,
) -> None:
    """Write an ARPA of the tokens of `lines` to `out`, and beside it a JSON.

    The JSON names the tokenizer by `vocabulary_hash`, and for each order the perplexity on `dev`, per token and end of
    sentence, and how many of its tokens the model has not seen. given: an ARPA of others, over the same tokens, to take
    in place of an estimate.
    """
    if given:
        check_vocabulary(given, tokenizer)
        ngram.load_ngrams(given, vocabulary)  # what is wrong with it is told before `out` is written over
    ids = [tokenizer.encode(line, add_special_tokens=False) for line in lines]
    held_out = [tokenizer.encode(line, add_special_tokens=False) for line in dev]
    orders = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for k in [order] if given else range(1, order + 1):
        if given:
            arpa.to_decimals(given, out)
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
    told = {"vocabulary": vocabulary_hash(tokenizer), "orders": orders}
    out.with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def build_words(lines: Sequence[str], order: int, prune: Sequence[int], out: Path, given: Path | None = None) -> None:
    """Write an ARPA of the words of `lines`; given: one of others to take in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if given:
        if (kind := arpa.kind(given)) != "words":
            is_it = "a binary of KenLM" if kind == "binary" else "an ARPA of token ids"
            raise DataError(f"{given}: {is_it}; --decoder ctc wants an ARPA of words")
        out.write_bytes(read_bytes(given))
        return
    words = dict.fromkeys(word for line in lines for word in line.split())
    number = {word: i for i, word in enumerate(words)}
    sentences = [[number[word] for word in line.split()] for line in lines]
    write_arpa(estimate(sentences, len(words), order, prune), out, list(words))


def _estimate(ids: Sequence[Sequence[int]], vocabulary: int, order: int, prune: Sequence[int], out: Path) -> None:
    if sum(map(len, ids)) <= LMPLZ_TOKENS or not (lmplz := shutil.which("lmplz")) or order < 2:
        write_arpa(estimate(ids, vocabulary, order, prune), out)
        return
    command = [lmplz, "-o", str(order), "--discount_fallback", "--arpa", str(out), "-T", str(out.parent)]
    command += ["--prune", *map(str, prune[:order])] if any(prune[:order]) else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        # lmplz reads all before it says much, so that the pipe of what it says cannot fill up.
        with contextlib.suppress(BrokenPipeError):  # where it ends early it says why
            process.stdin.writelines(" ".join(map(str, sentence)) + "\n" for sentence in ids)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        told = process.stderr.read()
    if process.returncode:
        raise DataError(f"lmplz: failed: {(told.strip().splitlines() or ['no word why'])[-1]}; take it off PATH")


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """First 16 hex digits of a hash of a tokenizer's tokens and their ids."""
    told = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def check_vocabulary(path: Path, tokenizer: Tokenizer) -> None:
    """Raise DataError when the JSON beside an ARPA names another tokenizer; nothing beside it proves nothing."""
    beside = Path(path).with_suffix(".json")
    if not beside.is_file():
        return
    try:
        named = json.loads(beside.read_text(encoding="utf-8"))["vocabulary"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{beside}: not what `adapt lm` writes beside an ARPA; make both again") from None
    if named != vocabulary_hash(tokenizer):
        raise DataError(f"{path}: of another tokenizer than the decoder's; make it again with `adapt lm`")
