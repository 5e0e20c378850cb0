"""The projector from Whisper's transcript of a recording to tokens of the LLM.

The transcript (`transcribing_whisper`) is the first pass of a two-pass recogniser, whose second pass, the LLM, reads
transcript and audio together (deliberation, 2003.07962). The projector makes an embedding for each token that the LLM
has for the transcript: its own token embedding, and a trained term that sees states and audio.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from adapt.errors import ModelError
from adapt.model.byte_pairs import encode
from adapt.model.readout import written_logits, written_tokens

MISHEARINGS = "mishearings.json"  # in the folder of a base: what it mishears (`adapt.train.mishearing`)

BYTES = 24  # most letters of a token of Whisper
CHOICES = 10  # alternatives to a token
LISTED = 120  # most tokens of a list of names


def first_pass_settings(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    generation: PreTrainedConfig,
    language: str,
) -> dict:
    """The token ids and attention heads that `TranscribingWhisper` needs, of a checkpoint of Whisper.

    language: of the recordings, as `en`. `heads` are (layer, head) whose cross-attention follows the audio; where the
    checkpoint names none, those of the upper half of the layers. Raises `ModelError` for a language that it lacks, and
    as `languages` does.
    """
    ids = tokenizer.get_vocab()
    if language not in (known := languages(tokenizer)):
        raise ModelError(f"{language!r} is none of its languages, {', '.join(known[:5])} ...; give another")
    task = [f"<|{language}|>", "<|transcribe|>"] if _is_multilingual(ids) else []
    prompt = [ids[token] for token in ("<|startoftranscript|>", *task, "<|notimestamps|>")]
    end = ids["<|endoftext|>"]
    layers, heads = range(config.decoder_layers // 2, config.decoder_layers), range(config.decoder_attention_heads)
    return {
        "prompt": prompt,
        "previous": ids["<|startofprev|>"],
        "end": end,
        "never": [token for token in getattr(generation, "suppress_tokens", None) or () if token >= 0],
        "never_first": [ids["Ġ"], end],
        "heads": getattr(generation, "alignment_heads", None) or [[a, b] for a in layers for b in heads],
    }


def languages(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The languages that a Whisper with this tokenizer transcribes, in its order.

    Raises `ModelError` for a tokenizer that is not Whisper's.
    """
    ids = tokenizer.get_vocab()
    if not {"<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>", "<|endoftext|>"} <= ids.keys():
        raise ModelError("its tokenizer is not Whisper's; copy the tokenizer files of the checkpoint too")
    found = [(token_id, name) for token, token_id in ids.items() if (name := token[2:-2]) and _is_language(token)]
    return [name for _, name in sorted(found)] if _is_multilingual(ids) else ["en"]


def _is_language(token: str) -> bool:
    return bool(re.fullmatch(r"<\|[a-z]{2,3}\|>", token))


def _is_multilingual(ids: dict[str, int]) -> bool:
    """Whether Whisper was trained on several languages; the tokenizers of English ones have fewer tokens of text."""
    return ids["<|endoftext|>"] >= 50257


# Brackets hold what is heard but not said, as "[ Silence ]". A capital beside another or a digit is a word of its
# own, because Whisper writes what is spelled in capitals. Signs are spoken, as in "$5" and "50%".
LETTERS = r"[^\W\d_]+"
WORD = re.compile(
    r"\[[^]]*\]|\([^)]*\)"
    r"|([A-Z](?=[A-Z\d])|(?<=[A-Z])[A-Z]|(?<=\d)[A-Z](?![a-z])"
    rf"|\d+(?:[.,:]\d+)*|[$£€%&@+°]|{LETTERS}(?:'{LETTERS})*)"
)


class Word(NamedTuple):
    """A word of a transcript, in lower case, and the first and the last token of Whisper that write it."""

    text: str
    first: int
    last: int


def spoken_words(tokens: Iterable[bytes]) -> list[Word]:
    """The words of a transcript without punctuation, as normalised transcripts are written; tokens: in UTF-8.

    >>> [word.text for word in spoken_words([b" Ok", b"ay, it's", b" the", b" US-A", b"ir."])]
    ['okay', "it's", 'the', 'u', 's', 'air']
    >>> [word.text for word in spoken_words([b" N71", b"-KB5 costs", b" $3.50", b" per 2nd."])]
    ['n', '71', 'k', 'b', '5', 'costs', '$', '3.50', 'per', '2', 'nd']
    """
    decoder, text, began, ended = codecs.getincrementaldecoder("utf-8")("ignore"), "", [], []
    first = 0  # token of the first byte of the next character
    for number, token in enumerate(tokens):
        characters = decoder.decode(token)
        text += characters
        began += [first if i == 0 else number for i in range(len(characters))]
        ended += [number] * len(characters)
        unfinished = decoder.getstate()[0]
        first = number + 1 if not unfinished else number if characters else first
    return [Word(m[1].lower(), began[m.start()], ended[m.end() - 1]) for m in WORD.finditer(text) if m[1]]


class FirstPass(nn.Module):
    """The projector from the frames of `TranscribingWhisper` to an embedding for each of the LLM's tokens in them.

    These are the LLM's own token embeddings. A trained term, which begins at 0 and sees audio and states of a word, is
    added to those of its tokens.

    settings: `first_pass_settings`. width: of a frame. hidden: width of the trained term. out: dimensions of the LLM's
    embeddings. `scale` holds the mean norm of the LLM's token embeddings, and `letters` those of Whisper's tokens
    (`token_letters`). `encode` is to be set to the function that returns the LLM's tokens of a word.
    """

    encode: Callable[[str], list[int]]

    def __init__(self, settings: dict, width: int, hidden: int, out: int):
        super().__init__()
        self.settings = settings
        self.register_buffer("letters", torch.zeros(settings["end"], BYTES, dtype=torch.uint8))
        self.register_buffer("scale", torch.tensor(1.0))
        self.linear1 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.linear2 = nn.Linear(hidden, out)

    def forward(self, frames: torch.Tensor, tokens: Sequence[int], table: torch.Tensor) -> torch.Tensor:
        """Embeddings `[tokens, out]` of the frames `[frames, width]` of one recording.

        tokens: of Whisper, those that it wrote or as many others. table: the embeddings of the LLM's tokens.
        """
        heard, states = self.spoken_tokens(frames).chunk(2, -1)
        rows, words = [table[:0].float()], self._words(tokens)
        if words:
            inputs = torch.cat([F.layer_norm(half.float(), half.shape[-1:]) for half in (heard, states)], -1)
            inputs = torch.stack([inputs[word.first : word.last + 1].mean(0) for word in words])
            hidden = self.norm(self.linear1(inputs.to(self.linear1.weight.dtype)))
            for word, term in zip(words, self.scale * self.linear2(F.gelu(hidden)).float(), strict=True):
                ids = torch.tensor(self.encode(word.text), dtype=torch.long, device=table.device)
                rows.append(F.embedding(ids, table).float() + term)
        return torch.cat(rows)

    def tokens(self, frames: Sequence[torch.Tensor], readout: torch.Tensor) -> list[list[int]]:
        """Whisper's tokens of the transcript of each recording, of which the end is left out.

        frames: of each, `[frames, width]`. readout: that of `TranscribingWhisper.readout`, `[tokens, width / 2]`.
        """
        states = [self.spoken_tokens(row).chunk(2, -1)[1][:-1] for row in frames]
        tokens = written_tokens(torch.cat(states), readout, self.settings)
        return [own.tolist() for own in tokens.split([len(own) for own in states])]

    def ids_of(self, tokens: Sequence[int]) -> list[int]:
        """The LLM's tokens of a transcript in tokens of Whisper, one for each embedding of `forward`."""
        return [token for word in self._words(tokens) for token in self.encode(word.text)]

    def list_tokens(self, names: Sequence[str]) -> list[int]:
        """Whisper's tokens of a list of names, of which the last are left out if it has more than LISTED tokens."""
        tokens: list[int] = []
        for name in names:
            more = encode(f", {name}" if tokens else f" {name}", self._vocabulary)
            if len(tokens) + len(more) >= LISTED:
                break
            tokens += more
        return [*tokens, *encode(".", self._vocabulary)] if tokens else []

    def text_tokens(self, text: str) -> list[int]:
        """Whisper's tokens of a transcript."""
        return encode(f" {text}", self._vocabulary)

    def whole_words(self, tokens: Sequence[int]) -> list[Word]:
        """The words of a transcript in tokens of Whisper; those that share a token, as in "US", are one."""
        whole: list[Word] = []
        for word in self._words(tokens):
            if whole and word.first <= whole[-1].last:
                text, first, _ = whole.pop()
                word = Word(f"{text} {word.text}", first, word.last)
            whole.append(word)
        return whole

    def with_name(self, tokens: Sequence[int], first: int, last: int, name: str) -> list[int]:
        """A transcript in tokens of Whisper with a name in place of its whole words from number `first` to `last`."""
        words = self.whole_words(tokens)
        start, end = words[first].first, words[last].last + 1
        space = " " if bytes(self.letters[tokens[start]].tolist()).startswith(b" ") else ""
        return [*tokens[:start], *encode(f"{space}{name}", self._vocabulary), *tokens[end:]]

    @functools.cached_property
    def _vocabulary(self) -> dict[bytes, int]:
        """The ids of Whisper's tokens by their bytes."""
        letters = (bytes(row).rstrip(b"\0") or b"\0" for row in self.letters.tolist())
        ids: dict[bytes, int] = {}
        for number, token in enumerate(letters):
            ids.setdefault(token, number)
        return ids

    def choices(self, frames: torch.Tensor, readout: torch.Tensor, least: float) -> list[list[tuple[int, float]]]:
        """For each token of the transcript, the tokens of at least the log probability `least`, the likeliest first.

        Each is (token, log probability). There are CHOICES at most, and that which Whisper wrote is always there.
        """
        states = self.spoken_tokens(frames).chunk(2, -1)[1]
        logs = written_logits(states[:-1], readout, self.settings).log_softmax(-1)[:, :-1]
        best = logs.topk(min(CHOICES, logs.shape[1]), -1)
        rows = (
            zip(ids, row, strict=True) for ids, row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        return [[pair for k, pair in enumerate(row) if k == 0 or pair[1] >= least] for row in rows]

    def _words(self, tokens: Sequence[int]) -> list[Word]:
        return spoken_words(bytes(self.letters[token].tolist()).rstrip(b"\0") for token in tokens)

    @staticmethod
    def spoken_tokens(frames: torch.Tensor) -> torch.Tensor:
        """Mean encoder frame and state of each token of Whisper, `[tokens, width]`; its frames share the state.

        Of its own output, it returns that.
        """
        heard, states = frames.chunk(2, -1)
        first = torch.ones(len(frames), dtype=torch.bool, device=frames.device)
        first[1:] = (states[1:] != states[:-1]).any(-1)
        group = first.cumsum(0) - 1
        sums = heard.new_zeros(int(group[-1]) + 1, heard.shape[1]).index_add(0, group, heard)
        return torch.cat([sums / group.bincount()[:, None], states[first]], -1)


def token_letters(whisper: PreTrainedTokenizerBase, tokens: int) -> torch.Tensor:
    """The UTF-8 of the first `tokens` tokens of Whisper, `[tokens, BYTES]`, filled with 0."""
    letters = torch.zeros(tokens, BYTES, dtype=torch.uint8)
    code = {character: byte for byte, character in bytes_to_unicode().items()}
    for token, text in enumerate(whisper.convert_ids_to_tokens(list(range(min(tokens, len(whisper)))))):
        written = [code[character] for character in text if character in code][:BYTES]
        letters[token, : len(written)] = torch.tensor(written, dtype=torch.uint8)
    return letters
