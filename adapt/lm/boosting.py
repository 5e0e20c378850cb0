"""Lists of phrases to boost, as a back-off automaton (Aho and Corasick 1975).

A hypothesis that enters a phrase receives the bonus of the part matched so far. If it leaves the phrase before the
phrase is completed, that bonus is withdrawn. The bonus of a completed phrase, followed by a word boundary, is kept.
Phrases start at the beginning of a word. The links between suffixes are Aho and Corasick's; the bonus by depth follows
Andrusenko et al. 2025, "TurboBias".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adapt.lm.automaton import Automaton, assemble
from adapt.lm.phrases import Phrase


@dataclass(slots=True)
class _Node:
    """A prefix of a phrase. parent: the node of the prefix that is one token shorter. root: the root of its list.

    granted: the bonus that a hypothesis at this node has received. completed: the bonus of the phrase that ends here;
    None if none does. link: the node of the longest proper suffix. kept_at_word, kept_in_word: the part of the bonus
    that is kept if the next token leaves the phrase and begins a word, and if it leaves the phrase within a word.
    """

    parent: int
    token: int
    root: int
    granted: float = 0.0
    completed: float | None = None
    link: int = 0
    kept_at_word: float = 0.0
    kept_in_word: float = 0.0
    children: dict[int, int] = field(default_factory=dict)


@dataclass
class _Trie:
    """The nodes of all lists. roots: the node from which each list starts again. starts: its node before a sentence."""

    nodes: list[_Node] = field(default_factory=lambda: [_Node(0, -1, 0)])
    roots: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, node: _Node) -> int:
        """Add a node and return its index."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def column(self, name: str) -> np.ndarray:
        """The field `name` of all nodes."""
        return np.array([getattr(node, name) for node in self.nodes])


def boosting_automaton(
    lists: Sequence[Sequence[Phrase]],
    begins: np.ndarray,
    ends: Sequence[int] = (),
    special: Sequence[int] = (),
) -> Automaton:
    """The automaton of lists of phrases: one list for all utterances, or one list for each.

    begins: `[V]`, from `phrases.word_beginnings`. A phrase of n tokens is worth weight * (1 + ln 2 + ... + ln n + n -
    1), in nats: token k gives 1 + ln k. The first token's share comes with the last token, because many other words
    begin with the same token, and a beam would lose its place to them. ends, special: as in `ngram.load_ngrams`.
    """
    trie = _trie(lists)
    _link(trie, begins)
    granted, at_word, in_word = (trie.column(name) for name in ("granted", "kept_at_word", "kept_in_word"))
    all_arcs = [(s, token, t) for s, node in enumerate(trie.nodes) for token, t in node.children.items()]
    sources, tokens, targets = np.array(all_arcs, np.int64).reshape(-1, 3).T
    # The arcs of the root become the root's scores and targets, not arcs of the automaton.
    at_root = sources == 0
    root, root_targets = np.zeros(len(begins)), np.zeros(len(begins), np.int64)
    root[tokens[at_root]] = granted[targets[at_root]]
    root_targets[tokens[at_root]] = targets[at_root]
    sources, tokens, targets = sources[~at_root], tokens[~at_root], targets[~at_root]
    return assemble(
        sources=sources,
        tokens=tokens,
        gains=_gains(trie, begins, sources, tokens, targets),
        targets=targets,
        parents=trie.column("link"),
        backoff=np.stack([in_word - granted, at_word - granted], 1),
        root=root,
        root_targets=root_targets,
        home=trie.column("root"),
        classes=np.stack([~begins, begins]),  # a token continues a word, or begins one
        final=at_word - granted,
        starts=trie.starts,
        special=[*special, *ends],
        ends=ends,
    )


def _trie(lists: Sequence[Sequence[Phrase]]) -> _Trie:
    """The prefixes of all phrases, with the bonus of each."""
    trie = _Trie()
    for phrases in lists:
        # A single list uses the root of the automaton, whose scores are a dense row over all tokens.
        root = 0 if len(lists) == 1 else trie.add(_Node(0, -1, len(trie.nodes)))
        start = trie.add(_Node(root, -1, root, link=root))
        trie.roots.append(root)
        trie.starts.append(start)
        for phrase in phrases:
            _insert(trie, root, root, phrase.inside, phrase.weight)
            if phrase.first != phrase.inside:
                _insert(trie, start, root, phrase.first, phrase.weight)
    return trie


def _insert(trie: _Trie, node: int, root: int, tokens: Sequence[int], weight: float) -> None:
    """Add a phrase below a node of the list with this root."""
    nodes, bonus = trie.nodes, 0.0
    for depth, token in enumerate(tokens, 1):
        child = nodes[node].children.get(token)
        if child is None:
            child = trie.add(_Node(node, token, root))
            nodes[node].children[token] = child
        node = child
        bonus += weight * (np.log(depth) + (depth > 1))
        nodes[node].granted = max(nodes[node].granted, bonus)
    if tokens:
        nodes[node].completed = max(nodes[node].completed or 0.0, bonus + weight)
        nodes[node].granted = max(nodes[node].granted, bonus + weight)


def _link(trie: _Trie, begins: np.ndarray) -> None:
    """Set the links and the kept bonuses of all nodes, breadth first, because a link leads to a shorter prefix."""
    nodes = trie.nodes
    waiting = deque(dict.fromkeys((*trie.roots, *trie.starts)))
    while waiting:
        parent = waiting.popleft()
        for token, child in nodes[parent].children.items():
            node = nodes[child]
            node.link = _suffix(nodes, parent, token)
            committed = nodes[parent].kept_at_word if begins[token] else nodes[parent].kept_in_word
            suffix = nodes[node.link]
            node.kept_at_word = max(committed, node.completed or 0.0, suffix.kept_at_word)
            node.kept_in_word = max(committed, suffix.kept_in_word)
            waiting.append(child)


def _suffix(nodes: Sequence[_Node], node: int, token: int) -> int:
    """The node of the longest proper suffix of a prefix and `token`, in the same list; its root if there is none.

    node: that of the prefix.
    """
    root = nodes[node].root
    while node != root:
        node = nodes[node].link
        if token in nodes[node].children:
            return nodes[node].children[token]
    return root


def _gains(trie: _Trie, begins: np.ndarray, sources: np.ndarray, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The gain `[A]` of each arc: how much higher it scores than backing off from its source.

    The arc gives the bonus of its target. Backing off withdraws the source's bonus, except the kept part, and then
    looks for the token after the suffixes; there it leads to the node to which the target links.
    """
    names = ("granted", "kept_at_word", "kept_in_word", "link", "parent")
    granted, at_word, in_word, links, parents = map(trie.column, names)
    begins_word = begins[tokens]
    suffixes = links[targets]
    suffix_takes_token = trie.column("token")[suffixes] == tokens
    kept_of_source = np.where(begins_word, at_word[sources], in_word[sources])
    kept_of_suffix = np.where(begins_word, at_word[parents[suffixes]], in_word[parents[suffixes]])
    backed_off = np.where(suffix_takes_token, kept_of_source - kept_of_suffix + granted[suffixes], kept_of_source)
    return granted[targets] - granted[sources] - (backed_off - granted[sources])
