"""Logits of targets after their prompts; what several prompts have in common is computed once.

Sentences of a domain are short, and the prompt before them is long and often the same. A row holds a prompt once,
followed by all that comes after it: each text sees the prompt and itself, by a block mask and its own positions. Logits
and gradients are those of a batch with one padded row for each text. Rows are as long as the cost in multiplications
says; with nothing to share, each text has its own. Layers that carry a state from token to token keep to no mask: such
a decoder reads the prompt once, and the rest of each text after a copy of its cache, through which gradients flow.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from transformers import Cache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from adapt.model.speech_llm import SpeechLLM, token_loss

GRID = 16  # rows have a multiple of this length: kernels are set up for each new one
UNABLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)  # of a decoder on trial


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
    if _packs(speech_llm, longest):
        logits = _logits(speech_llm, texts, _cheapest(texts, speech_llm.hidden), through)
    elif speech_llm.packs:
        logits = _logits(speech_llm, texts, _alone(texts), through)
    else:
        logits = _logits_of_groups(speech_llm, texts, through)
    tokens = [token for text in texts for token in text.target]
    return logits, torch.tensor(tokens, device=logits.device)


def _cheapest(texts: Sequence[Text], hidden: int) -> list[_Row]:
    """The layout with the fewest multiplications, of those with one row, two, four and so on, and a row for each text.

    A layer has about 12 hidden^2 + 2 hidden * length of them for each token.
    """
    counts = [2**power for power in range(math.ceil(math.log2(len(texts))))]
    layouts = [_layout(texts, count) for count in [*counts, len(texts)]]
    return min(layouts, key=lambda rows: _padded(rows) * len(rows) * (6 * hidden + _padded(rows)))


def _padded(rows: Sequence[_Row]) -> int:
    """The length of all rows in a batch."""
    return _on_grid(max(row.length for row in rows))


def _on_grid(length: int) -> int:
    """The length of a row with its padding."""
    return -(-length // GRID) * GRID


def _alone(texts: Sequence[Text]) -> list[_Row]:
    """A row for each text."""
    return [_Row(len(text.shared) + text.length, {text.key: [i]}) for i, text in enumerate(texts)]


def _layout(texts: Sequence[Text], count: int) -> list[_Row]:
    """About `count` rows of similar length, with the texts in order of their shared parts."""
    if count == len(texts):
        return _alone(texts)
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
    speech_llm: SpeechLLM,
    texts: Sequence[Text],
    rows: Sequence[_Row],
    through: torch.nn.Module | None,
    cache: Cache | None = None,
    past: int = 0,
) -> torch.Tensor:
    """Logits of the texts in these rows. cache: what is before each row, `past` tokens; only if each text has a row."""
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
        mask, positions = F.pad((owners < len(texts)).long(), (past, 0), value=1), None
    else:
        mask = _block_mask(owners, parts, inputs.dtype)
    places = torch.tensor(list(itertools.chain.from_iterable(states)), device=inputs.device).T
    return speech_llm.logits_at(inputs, places, mask, positions, cache, through=through)


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
    try:
        with _in_eval_mode(speech_llm.model):
            shared = [_Row(len(prompt) + text.length + others[0].length, {0: [0, 1]})]
            first, second = (_logits(speech_llm, [other, text], shared, None)[-text.length :] for other in others)
            alone = _logits(speech_llm, [text], _alone([text]), None)
    except UNABLE:
        return False  # it takes no mask of this shape
    size = float(alone.float().std())
    return float((first - second).abs().max()) <= 1e-3 * size and float((first - alone).abs().max()) <= 0.1 * size


def _logits_of_groups(speech_llm: SpeechLLM, texts: Sequence[Text], through: torch.nn.Module | None) -> torch.Tensor:
    """Logits of all texts: after a cache for those whose prompt is worth one, in rows of their own for the others."""
    by_key = defaultdict(list)
    for i, text in enumerate(texts):
        by_key[text.key].append(i)
    groups = [group for group in by_key.values() if _halves([texts[i] for i in group])]
    if not (groups and _caches(speech_llm)):
        return _logits(speech_llm, texts, _alone(texts), through)
    found = [(group, _logits_after_cache(speech_llm, [texts[i] for i in group], through)) for group in groups]
    if others := sorted(set(range(len(texts))).difference(*groups)):
        alone = [texts[i] for i in others]
        found.append((others, _logits(speech_llm, alone, _alone(alone), through)))
    of_text: dict[int, torch.Tensor] = {}
    for group, logits in found:
        of_text |= zip(group, logits.split([len(texts[i].target) for i in group]), strict=True)
    return torch.cat([of_text[i] for i in range(len(texts))])


def _halves(texts: Sequence[Text]) -> bool:
    """Whether a cache of their shared part halves the tokens to compute; a second pass takes time of its own."""
    shared, rest, count = len(texts[0].shared), max(text.length for text in texts), len(texts)
    return 2 * (shared + count * _on_grid(rest)) <= count * _on_grid(shared + rest)


def _logits_after_cache(speech_llm: SpeechLLM, texts: Sequence[Text], through: torch.nn.Module | None) -> torch.Tensor:
    """Logits of texts that have their shared part in common: it is computed once, each text after a copy of its cache.

    The last token of the shared part comes after the cache, where it predicts the first token of each text.
    """
    cache, shared, past = speech_llm.new_cache(), texts[0].shared, len(texts[0].shared) - 1
    speech_llm.forward(shared[None, :past], cache=cache, keep=1, through=through)
    cache.reorder_cache(torch.zeros(len(texts), dtype=torch.long, device=shared.device))
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            # It would overwrite the state, which kernels have kept for their backward pass; nothing comes after.
            layer.update_recurrent_state = lambda states, *_, **__: states
    rest = [replace(text, shared=shared[past:]) for text in texts]
    return _logits(speech_llm, rest, _alone(rest), through, cache, past)


def _caches(speech_llm: SpeechLLM) -> bool:
    """Whether the rest of a text may now be computed after the cache of its prompt."""
    modules = speech_llm.model.get_decoder().modules()
    if any(getattr(module, "gradient_checkpointing", False) and module.training for module in modules):
        return False  # transformers leaves the cache out where activations are recomputed
    if speech_llm.caches is None:
        speech_llm.caches = can_cache(speech_llm)
    return speech_llm.caches


def can_cache(speech_llm: SpeechLLM) -> bool:
    """Whether texts after the cache of a prompt have the logits and, for the prompt, the gradients of whole rows."""
    model, ids = speech_llm.model, [token % speech_llm.vocabulary for token in range(3, 33)]
    prompt, nothing, found = speech_llm.embed(ids[:12]).detach().requires_grad_(), speech_llm.embed([]), []
    texts = [Text(0, prompt, nothing, own) for own in (ids[12:17], ids[17:24])]
    labels = torch.tensor(ids[12:24], device=prompt.device)
    try:
        with _in_eval_mode(model), torch.enable_grad(), torch.autocast(prompt.device.type, enabled=False):
            after_cache = _logits_after_cache(speech_llm, texts, None)
            for logits in (after_cache, _logits(speech_llm, texts, _alone(texts), None)):
                found.append((logits.detach(), *torch.autograd.grad(token_loss(logits, labels), prompt)))
    except UNABLE:
        return False  # it takes no such cache, or its gradients end there
    limit = 0.2 if model.dtype.itemsize < 4 else 0.01  # rounding to 16 bits in 48 layers changes gradients by a tenth
    pairs = [(ours.float(), alone.float()) for ours, alone in zip(*found, strict=True)]
    return all(float((ours - alone).norm()) <= limit * float(alone.norm()) for ours, alone in pairs)


@contextmanager
def _in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switch all modules to eval mode, and back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
