"""Logits of targets after their prompts, in rows that share what their prompts have in common.

Sentences of a domain are short, and the prompt before them is long and often the same. A row holds a prompt once,
followed by all that comes after it: each text sees the prompt and itself, by a block mask and its own positions. Logits
and gradients are those of a batch with one padded row for each text. Rows are as long as the cost in multiplications
says; with nothing to share, each text has its own.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from adapt.model.speech_llm import SpeechLLM

GRID = 16  # rows have a multiple of this length: kernels are set up for each new one


@dataclass(frozen=True)
class Text:
    """What a decoder reads for one target: the shared part of its prompt, the rest of the prompt, and the target.

    key: equal for texts with the same shared part. shared, own: rows `[length, width]`. target: token ids.
    """

    key: Hashable
    shared: torch.Tensor
    own: torch.Tensor
    target: Sequence[int]

    @property
    def length(self) -> int:
        """Tokens without the shared ones."""
        return len(self.own) + len(self.target)


@dataclass
class _Row:
    """A row in the making. parts: each shared part by its key. texts: indices of the texts that follow them."""

    length: int = 0
    parts: dict[Hashable, list[int]] = field(default_factory=dict)


def target_logits(
    speech_llm: SpeechLLM,
    slots: Sequence[torch.Tensor | None],
    targets: Sequence[Sequence[int]],
    names: Sequence[Sequence[str]] | None = None,
    *,
    through: torch.nn.Module | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `token_loss`: logits `[tokens, vocabulary]` of all target tokens, text by text, and the tokens.

    slots: as in `SpeechLLM.prompt`; the same tensor in several places is processed once. targets: token ids. names: in
    the prompt of each; None: none. through: the module that wraps the model in training; None: the model.
    """
    lists = [tuple(own) for own in names] if names else [()] * len(slots)
    keys = [(id(slot), own) for slot, own in zip(slots, lists, strict=True)]
    times, around, texts = Counter(keys), {}, []
    for slot, own, key, target in zip(slots, lists, keys, targets, strict=True):
        if times[key] > 1 or slot is None:
            if key not in around:
                around[key] = speech_llm.prompt(slot, own)
            texts.append(Text(key, around[key], around[key][:0], target))
            continue
        if own not in around:
            around[own] = speech_llm.around_slot(own)
        before, after = around[own]
        texts.append(Text(own, before, torch.cat([speech_llm.rows_of_embeddings(slot), after]), target))
    return logits_of(speech_llm, texts, through=through)


def logits_after(
    speech_llm: SpeechLLM, prompts: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `target_logits`. prompts: rows `[length, width]`; the same tensor in several places is processed once."""
    pairs = zip(prompts, targets, strict=True)
    return logits_of(speech_llm, [Text(id(prompt), prompt, prompt[:0], target) for prompt, target in pairs])


def logits_of(
    speech_llm: SpeechLLM, texts: Sequence[Text], *, through: torch.nn.Module | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `target_logits`."""
    longest = max(len(text.shared) + text.length for text in texts)
    rows = [_Row(len(text.shared) + text.length, {text.key: [i]}) for i, text in enumerate(texts)]
    if _packs(speech_llm, longest):
        rows = _cheapest(texts, speech_llm.hidden)
    return _logits(speech_llm, texts, rows, through)


def _cheapest(texts: Sequence[Text], hidden: int) -> list[_Row]:
    """The layout with the fewest multiplications, of those with one row, two, four and so on, and a row for each text.

    A layer has about 12 hidden^2 + 2 hidden * length of them for each token.
    """
    counts = [2**power for power in range(math.ceil(math.log2(len(texts))))]
    layouts = [_layout(texts, count) for count in [*counts, len(texts)]]
    return min(layouts, key=lambda rows: _padded(rows) * len(rows) * (6 * hidden + _padded(rows)))


def _padded(rows: Sequence[_Row]) -> int:
    """The length of all rows in a batch."""
    return -(-max(row.length for row in rows) // GRID) * GRID


def _layout(texts: Sequence[Text], count: int) -> list[_Row]:
    """About `count` rows of similar length, with the texts in order of their shared parts."""
    if count == len(texts):
        return [_Row(len(text.shared) + text.length, {text.key: [i]}) for i, text in enumerate(texts)]
    shared = {text.key: len(text.shared) for text in texts}
    place = {key: number for number, key in enumerate(shared)}
    order = sorted(range(len(texts)), key=lambda i: (place[texts[i].key], texts[i].length))
    room = (sum(text.length for text in texts) + sum(shared.values())) / count
    rows = [_Row()]
    for i in order:
        added = texts[i].length + (0 if texts[i].key in rows[-1].parts else len(texts[i].shared))
        if rows[-1].length >= room:
            rows.append(_Row())
            added = texts[i].length + len(texts[i].shared)
        rows[-1].parts.setdefault(texts[i].key, []).append(i)
        rows[-1].length += added
    return rows


def _logits(
    speech_llm: SpeechLLM, texts: Sequence[Text], rows: Sequence[_Row], through: torch.nn.Module | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and tokens of the texts in these rows."""
    tokens = [token for text in texts for token in text.target]
    targets = speech_llm.embed(tokens).split([len(text.target) for text in texts])
    length, packed, labels = _padded(rows), [], []
    states: list[list[tuple[int, int]]] = [[] for _ in texts]  # (row, column) of those that predict each target
    for number, row in enumerate(rows):
        pieces, of_row = [], []  # of_row: for each token its position, its text, and the shared part before it
        for part, members in enumerate(row.parts.values(), 1):
            shared = texts[members[0]].shared
            pieces.append(shared)
            of_row += [(place, -part, -part) for place in range(len(shared))]
            last = len(of_row) - 1
            for i in members:
                text, first = texts[i], len(of_row) + len(texts[i].own)
                pieces += [text.own, targets[i]]
                of_row += [(len(shared) + place, i, -part) for place in range(text.length)]
                columns = (first - 1 if len(text.own) else last, *range(first, first + len(text.target) - 1))
                states[i] = [(number, column) for column in columns]
        labels.append(of_row + [(0, len(texts), 0)] * (length - len(of_row)))
        packed.append(F.pad(torch.cat(pieces), (0, 0, 0, length - len(of_row))))
    inputs = torch.stack(packed)
    positions, owners, parts = torch.tensor(labels, device=inputs.device).unbind(-1)
    if all(len(row.parts) == 1 and len(*row.parts.values()) == 1 for row in rows):
        mask, positions = (owners < len(texts)).long(), None
    else:
        mask = _block_mask(owners, parts, inputs.dtype)
    places = torch.tensor(list(itertools.chain.from_iterable(states)), device=inputs.device).T
    logits = speech_llm.logits_at(inputs, places, mask, positions, through=through)
    return logits, torch.tensor(tokens, device=inputs.device)


def _block_mask(owners: torch.Tensor, parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention, `[rows, 1, length, length]`: 0 where a token sees another, and the least number.

    owners: the text of each token, or, of one in a shared part, that part. parts: the shared part of its text. Both are
    `[rows, length]`. A token sees earlier ones of its text and of the shared part before it.
    """
    sees = (owners[:, :, None] == owners[:, None]) | (parts[:, :, None] == owners[:, None])
    sees &= torch.ones(sees.shape[1:], dtype=torch.bool, device=owners.device).tril()
    mask = torch.zeros(sees.shape, dtype=dtype, device=owners.device)
    return mask.masked_fill(~sees, torch.finfo(dtype).min)[:, None]


def _packs(speech_llm: SpeechLLM, longest: int) -> bool:
    """Whether texts of this length, with their prompts, may share rows."""
    if speech_llm.packs is None:
        speech_llm.packs = can_pack(speech_llm)
    config = speech_llm.model.config.get_text_config(decoder=True)
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return speech_llm.packs and longest <= min(filter(None, windows), default=longest)


@torch.no_grad()
def can_pack(speech_llm: SpeechLLM) -> bool:
    """Whether the decoder keeps to a block mask and to positions; layers with a state, for example, do not.

    A text that shares a row must have the logits that it has alone, and they must not change with the other text.
    """
    ids = [token % speech_llm.vocabulary for token in range(3, 33)]
    prompt, nothing = speech_llm.embed(ids[:6]), speech_llm.embed([])
    text, *others = (Text(0, prompt, nothing, own) for own in (ids[6:11], ids[11:18], ids[18:25]))
    modes = {module: module.training for module in speech_llm.model.modules()}
    speech_llm.model.eval()
    try:
        shared = [_Row(len(prompt) + text.length + others[0].length, {0: [0, 1]})]
        first, second = (_logits(speech_llm, [other, text], shared, None)[0][-text.length :] for other in others)
        alone, _ = _logits(speech_llm, [text], [_Row(len(prompt) + text.length, {0: [0]})], None)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError):
        return False  # it takes no mask of this shape
    finally:
        for module, mode in modes.items():
            module.training = mode
    size = float(alone.float().std())
    return float((first - second).abs().max()) <= 1e-3 * size and float((first - alone).abs().max()) <= 0.1 * size
