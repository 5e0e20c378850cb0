"""A lexicon to boost as an automaton: Aho and Corasick's, with a bonus that grows with what is matched of a phrase.

A hypothesis that walks into a phrase is given the bonus of the part matched so far; where it leaves the phrase before
its end, what it was given is taken back; what is matched to its end, with a word boundary behind it, is kept. Phrases
begin at the beginning of a word. (Aho and Corasick 1975 for the links between suffixes; the bonus by depth as in
Andrusenko et al. 2025, "TurboBias".)
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapt.errors import DataError
from adapt.lm.automaton import Automaton, assemble
from adapt.text.lexicon import Entry

FULL = 16  # letters from which a phrase has its whole bonus
SYLLABLE = 3  # letters that a character counts for where it is a whole syllable
INSIDE, BEGINS = 0, 1  # classes of tokens: inside a word, or at its beginning
_SYLLABIC = range(0x2E80, 0x40000)  # Chinese, Japanese, Korean
_KOREAN = range(0xAC00, 0xD7B0)
_SPACELESS = (range(0xE00, 0xF00), range(0x1000, 0x10A0), range(0x1780, 0x1800))  # Thai and Lao, Burmese, Khmer
_LEADS = (*range(0xE3, 0xEA), *range(0xEF, 0xF8))  # first bytes of Chinese and Japanese in UTF-8
# How GPT-2 writes bytes: printable ones as they are, the others as characters from 256 up.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}


@dataclass(frozen=True)
class Phrase:
    """One way to write an entry, in tokens: inside a sentence, and at its very beginning. weight: of its bonus."""

    inside: tuple[int, ...]
    first: tuple[int, ...]
    weight: float = 1.0


@dataclass(slots=True)
class _Node:
    """kept: how much stays when a word begins next; lost: when the word goes on."""

    parent: int
    token: int
    depth: int
    root: int
    granted: float = 0.0
    whole: float | None = None  # bonus of the phrase that ends here
    link: int = 0
    kept: float = 0.0
    lost: float = 0.0
    children: dict[int, int] = field(default_factory=dict)


def tokenise(
    entries: Iterable[Entry],
    encode: Callable[[str], Sequence[int]],
    normalise: Callable[[str], str],
    unknown: int | None,
) -> list[Phrase]:
    """Entries, and their spoken forms, in tokens. encode: a tokenizer without special tokens.

    Each form is taken as it is, in lower case and with a capital in front, where `normalise` leaves a difference.
    A form of fewer than FULL letters has as much less of the entry's weight as it is shorter, for much sounds like it.
    Entries whose weight is not above 0 are left out. Raises DataError with the entries of which no form can be written
    without `unknown` (None: a tokenizer that can write all).
    """
    phrases: dict[tuple[tuple[int, ...], tuple[int, ...]], Phrase] = {}
    problems = []
    for entry in entries:
        if entry.weight <= 0:
            continue
        forms = [normalise(form) for form in (entry.written, *entry.spoken)]
        variants = [v for form in forms for v in (form, form.lower(), form[:1].upper() + form[1:])]
        found = []
        for variant in dict.fromkeys(map(normalise, variants)):
            first = tuple(encode(variant))
            inside = _after_a_word(variant, encode)
            if inside and first and (unknown is None or unknown not in inside + first):
                found.append(Phrase(inside, first, entry.weight * min(1.0, _letters(variant) / FULL)))
        if not found:
            told = f"phrases: {entry.written!r} cannot be written in the decoder's tokens"
            problems.append(f"{told}; give it a spoken form that can, or take it out")
        for phrase in found:
            key = phrase.inside, phrase.first
            if key not in phrases or phrases[key].weight < phrase.weight:
                phrases[key] = phrase
    if problems:
        raise DataError(*problems)
    return list(phrases.values())


def _after_a_word(text: str, encode: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
    # Not encode(" " + text): tokenizers that put a space in front of every text would write two.
    text = text if _spaceless(text[:1]) else " " + text
    word, both = list(encode("a")), list(encode("a" + text))
    return tuple(both[len(word) :] if both[: len(word)] == word else encode(text))


def _letters(text: str) -> int:
    return sum(SYLLABLE if ord(char) in _SYLLABIC and char.isalpha() else char.isalnum() for char in text)


def _spaceless(char: str) -> bool:
    """Is it a letter of a script that writes no spaces between words?"""
    if not char or unicodedata.category(char) != "Lo" or ord(char) in _KOREAN:
        return False
    return ord(char) in _SYLLABIC or any(ord(char) in script for script in _SPACELESS)


def word_beginnings(pieces: Sequence[str]) -> np.ndarray:
    """Of each token's piece, as the tokenizer writes it: does a word end before it?

    >>> word_beginnings(["▁play", "er", "'s", "Ġby", ",", "歌"]).tolist()
    [True, False, False, True, True, True]
    """
    in_bytes = any(piece.startswith("Ġ") for piece in pieces)
    return np.array([_begins(raw(piece, in_bytes)) for piece in pieces])


def raw(piece: str, in_bytes: bool) -> bytes:
    """The bytes of a piece. in_bytes: written as GPT-2's tokenizer writes bytes, a character for each."""
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", piece):  # one that SentencePiece has no character for
        return bytes([int(byte[1], 16)])
    if in_bytes and all(char in _BYTES for char in piece):
        return bytes(_BYTES[char] for char in piece)
    return piece.encode()


def _begins(raw: bytes) -> bool:
    char = raw.decode("utf-8", "replace")[:1]
    if char == "\ufffd":  # a part of a character
        return raw[0] in _LEADS
    return char in "▁ " or _spaceless(char) or (unicodedata.category(char)[0] not in "LMN" and char not in "'’")


def boost(
    lists: Sequence[Sequence[Phrase]],
    begins: np.ndarray,
    ends: Sequence[int] = (),
    special: Sequence[int] = (),
) -> Automaton:
    """The automaton of lists of phrases: one for every utterance, or one for each.

    begins: `[V]`, from `word_beginnings`. A phrase of n tokens is worth weight * (1 + ln 2 + ... + ln n + n - 1), in
    nats: each token gives 1 + ln of its number. What the first gives comes with the last, for much else begins like it,
    and a beam would lose that to what is never said to its end. ends, special: as in `ngram.load_ngrams`.
    """
    vocabulary = len(begins)
    nodes = [_Node(0, -1, 0, 0)]
    homes: list[int] = []
    starts: list[int] = []
    for phrases in lists:
        # One list alone can be the root itself, whose scores are one row for all tokens.
        home = 0 if len(lists) == 1 else _add(nodes, _Node(0, -1, 0, len(nodes)))
        start = _add(nodes, _Node(home, -1, 0, home, link=home))
        homes.append(home)
        starts.append(start)
        for phrase in phrases:
            _insert(nodes, home, home, phrase.inside, phrase.weight)
            if phrase.first != phrase.inside:
                _insert(nodes, start, home, phrase.first, phrase.weight)
    _link(nodes, homes, starts, begins)

    links = np.array([node.link for node in nodes])
    granted = np.array([node.granted for node in nodes])
    kept, lost = (np.array([getattr(node, name) for node in nodes]) for name in ("kept", "lost"))
    rest = np.stack([lost - granted, kept - granted], 1)
    arcs = [(s, token, t) for s, node in enumerate(nodes) for token, t in node.children.items()]
    sources, tokens, targets = np.array(arcs, np.int64).reshape(-1, 3).T
    root, root_targets = np.zeros(vocabulary), np.zeros(vocabulary, np.int64)
    at_root = sources == 0
    root[tokens[at_root]] = granted[targets[at_root]]
    root_targets[tokens[at_root]] = targets[at_root]
    sources, tokens, targets = sources[~at_root], tokens[~at_root], targets[~at_root]
    # An arc of a node gives its target's bonus; without it the node's would fall to what is kept of it, and the token
    # would be looked for in the suffixes, where it leads to the suffix that the target is linked to.
    mask = begins[tokens]
    suffix = links[targets]
    follows = np.array([nodes[s].token for s in suffix], np.int64) == tokens
    kept_of = np.where(mask, kept[sources], lost[sources])
    parent_of = np.array([nodes[s].parent for s in suffix], np.int64)
    below = np.where(mask, kept[parent_of], lost[parent_of])
    otherwise = np.where(follows, kept_of - below + granted[suffix], kept_of) - granted[sources]
    gains = granted[targets] - granted[sources] - otherwise
    classes = np.stack([~begins, begins])
    return assemble(
        sources=sources,
        tokens=tokens,
        gains=gains,
        targets=targets,
        parents=links,
        rest=rest,
        root=root,
        root_targets=root_targets,
        home=np.array([node.root for node in nodes]),
        classes=classes,
        final=kept - granted,
        starts=starts,
        special=[*special, *ends],
        ends=ends,
    )


def _add(nodes: list[_Node], node: _Node) -> int:
    nodes.append(node)
    return len(nodes) - 1


def _insert(nodes: list[_Node], at: int, home: int, tokens: Sequence[int], weight: float) -> None:
    bonus = 0.0
    for depth, token in enumerate(tokens, 1):
        below = nodes[at].children.get(token)
        if below is None:
            below = _add(nodes, _Node(at, token, depth, home))
            nodes[at].children[token] = below
        at = below
        bonus += weight * (np.log(depth) + (depth > 1))
        nodes[at].granted = max(nodes[at].granted, bonus)
    if tokens:
        nodes[at].whole = max(nodes[at].whole or 0.0, bonus + weight)
        nodes[at].granted = max(nodes[at].granted, bonus + weight)


def _link(nodes: list[_Node], homes: Sequence[int], starts: Sequence[int], begins: np.ndarray) -> None:
    """Each node's longest proper suffix that is a node of its list, and what stays of its bonus."""
    waiting = deque(dict.fromkeys((*homes, *starts)))
    while waiting:
        here = waiting.popleft()
        for token, child in nodes[here].children.items():
            node, at = nodes[child], here
            home = node.root
            while at != home:
                at = nodes[at].link
                if token in nodes[at].children:
                    node.link = nodes[at].children[token]
                    break
            else:
                node.link = home
            committed = nodes[here].kept if begins[token] else nodes[here].lost
            suffix = nodes[node.link]
            node.kept = max(committed, node.whole or 0.0, suffix.kept)
            node.lost = max(committed, suffix.lost)
            waiting.append(child)
