"""Language models and phrase lists inside the beam search of transformers' own `generate`, as logits processors.

    lm = ngram.load_ngrams("tokens.arpa", vocabulary=model.config.vocab_size, ends=[eos])
    model.generate(inputs_embeds=..., num_beams=8, logits_processor=[NgramFusion(lm, weight=0.3)])

They work beside any decoder, without the rest of the toolkit. Nothing is normalised first: beam search hands over log
probabilities already, and what greedy search hands over differs from them by one number a row, which changes no choice.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel

from adapt.decode.beam_tracker import BeamTracker
from adapt.decode.joint import JointCtc, spelled
from adapt.decode.weights import Weights
from adapt.errors import DataError, first_line
from adapt.lm import arpa, ngram
from adapt.lm.automaton import Automaton, dense_rows, score_all
from adapt.lm.build import check_vocabulary
from adapt.lm.phrases import Phrase, boost, tokenise, word_beginnings
from adapt.model.speech_llm import IGNORED, SpeechLLM
from adapt.text.lexicon import Entry, Lexicon

LN10 = 2.302585092994046


class NgramFusion(LogitsProcessor):
    """Adds weight times the score of each automaton (`lm.ngram`, `lm.phrases`), and `reward` for each token, in place:
    with `output_logits`, greedy search hands back what was fused.

    more: further (automaton, weight) pairs, in the same pass over the vocabulary; a negative weight takes a model of
    the source domain out, as a low-order one does in LODR (Zheng et al. 2022). prompt_length: leading columns of
    `input_ids` that are the prompt's; 0 with `inputs_embeds`. An automaton with several lists wants the batch to be as
    many utterances, each with as many rows.
    """

    def __init__(
        self,
        automaton: Automaton,
        weight: float,
        *more: tuple[Automaton, float],
        reward: float = 0.0,
        prompt_length: int = 0,
    ):
        self.terms = [(automaton, weight), *more]
        self.prompt_length = prompt_length
        self._rows = dense_rows([a for a, _ in self.terms])
        self._reward = reward * (automaton.classes.sum(0) > 0)
        self._tracker = BeamTracker(max(len(a.starts) for a, _ in self.terms))
        self._states: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._follow(input_ids[:, self.prompt_length :])
        self._fit(scores)
        scores = scores.contiguous()
        if self._reward.any():
            scores += self._reward
        terms = [(a, states, weight) for (a, weight), states in zip(self.terms, self._states, strict=True)]
        return score_all(scores, terms, self._rows)

    def _follow(self, ids: torch.Tensor) -> None:
        sources = self._tracker.sources(ids)
        automata = [a for a, _ in self.terms]
        if sources is not None:
            self._states = [
                a.step(s[sources], ids[:, -1:])[1][:, 0] for a, s in zip(automata, self._states, strict=True)
            ]
            return
        self._states = [a.start(len(ids)) for a in automata]
        for column in range(ids.shape[1]):
            token = ids[:, column : column + 1]
            self._states = [a.step(s, token)[1][:, 0] for a, s in zip(automata, self._states, strict=True)]

    def _fit(self, scores: torch.Tensor) -> None:
        """The decoder's outputs may be more than its tokens; the automata are on its device from then on."""
        vocabulary, device = scores.shape[1], scores.device
        if self._rows.shape[1] == vocabulary and self._rows.device == device:
            return
        self.terms = [(a.padded(vocabulary).to(device), weight) for a, weight in self.terms]
        self._rows = dense_rows([a for a, _ in self.terms])
        more = vocabulary - len(self._reward)
        self._reward = torch.nn.functional.pad(self._reward, (0, more)).to(device)
        self._states = [s.to(device) for s in self._states]


class KenlmFusion(LogitsProcessor):
    """As `NgramFusion`, for a file that KenLM reads, binary or ARPA, whose words are token ids in decimals.

    Scores the `top_k` best tokens of each row and leaves the others where they cannot be chosen: behind them all.
    ends: end-of-sentence tokens. Needs the kenlm package. Raises DataError without it, or for a file it cannot read.
    """

    def __init__(
        self, path: str | Path, weight: float, ends: Sequence[int] = (), top_k: int = 64, prompt_length: int = 0
    ):
        self.model = open_kenlm(path)
        self._state = _kenlm().State
        self.weight, self.ends, self.top_k, self.prompt_length = weight, frozenset(ends), top_k, prompt_length
        self._known: dict[tuple[int, ...], object] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = [tuple(row) for row in input_ids[:, self.prompt_length :].tolist()]
        states = {row: self._state_of(row) for row in rows}
        best, tokens = scores.topk(min(self.top_k, scores.shape[1]))
        given = []
        for row, candidates in zip(rows, tokens.tolist(), strict=True):
            after = self._state()
            words = ["</s>" if t in self.ends else str(t) for t in candidates]
            given.append([self.model.BaseScore(states[row], word, after) for word in words])
        self._known = states
        fused = best + self.weight * LN10 * torch.tensor(given, device=scores.device, dtype=scores.dtype)
        lowest = torch.finfo(scores.dtype).min
        return torch.full_like(scores, lowest).scatter_(1, tokens, fused)

    def totals(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Natural log probability `[rows]` of each sequence of tokens and the end of the sentence after it."""
        return torch.tensor([LN10 * self.model.score(" ".join(map(str, tokens))) for tokens in sequences])

    def _state_of(self, row: tuple[int, ...]) -> object:
        if row in self._known:
            return self._known[row]
        state = self._state()
        if not row:
            self.model.BeginSentenceWrite(state)
        else:
            self.model.BaseScore(self._state_of(row[:-1]), str(row[-1]), state)
        return state


def _kenlm():
    try:
        import kenlm
    except ImportError:
        raise DataError("kenlm: not installed; it builds on Python before 3.13; an ARPA of tokens needs none") from None
    return kenlm


def open_kenlm(path: str | Path):
    """The `kenlm.Model` of a binary or an ARPA. Raises DataError where it cannot be read, or kenlm is not there."""
    kenlm = _kenlm()
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; `adapt lm RECIPE` writes one")
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        return kenlm.Model(str(path), config)
    except (OSError, RuntimeError) as error:
        told = f"KenLM cannot read it: {first_line(error)}; build it again, of order 2 at least"
        raise DataError(f"{path}: {told}") from None


def of_ids(model) -> bool:
    """Whether the words of a `kenlm.Model`, which does not list them, are token ids: numbers, and no letter alone."""
    letters = (letter for letter in map(chr, range(sys.maxunicode)) if letter.isalpha())
    return any(str(i) in model for i in range(10_000)) and not any(letter in model for letter in letters)


class InternalLM(LogitsProcessor):
    """Takes weight times the log probabilities of the decoder without audio off the scores.

    prompt: embeddings `[length, hidden]` of the prompt without audio in its slot, empty or with a soft prompt: what the
    decoder then says is its internal language model (Meng et al. 2021, "Internal language model estimation"). It runs a
    second forward pass a step. special: tokens that keep their scores.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt: torch.Tensor,
        weight: float,
        special: Sequence[int] = (),
        prompt_length: int = 0,
    ):
        self.model, self.prompt, self.weight = model, prompt, weight
        self.special, self.prompt_length = list(special), prompt_length
        self._tracker = BeamTracker()
        self._cache: DynamicCache | None = None

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ids = input_ids[:, self.prompt_length :]
        sources = self._tracker.sources(ids)
        embed = self.model.get_input_embeddings()
        if sources is None:
            self._cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
            inputs = torch.cat([self.prompt.expand(len(ids), -1, -1), embed(ids).to(self.prompt.dtype)], 1)
        else:
            self._cache.reorder_cache(sources)
            inputs = embed(ids[:, -1:])
        logits = self.model(inputs_embeds=inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[
            :, -1
        ]
        taken = self.weight * logits.to(scores.dtype).log_softmax(-1)
        taken[:, self.special] = 0
        return scores - taken


class Fusion:
    """What is fused into the beam search of one speech LLM, with which weights.

    lm: path of an n-gram model over its tokens (`lm.ngram`; a binary of KenLM goes through `KenlmFusion`). source: one
    of the source domain, taken off. lexicon: to boost for every utterance; None: only what an utterance brings along.
    internal: embeddings of the prompt without audio. Raises DataError for a weight of n-grams or of the internal LM
    where they are not there, for n-grams of another tokenizer, and for a lexicon that cannot be written in tokens.
    """

    def __init__(
        self,
        speech_llm: SpeechLLM,
        weights: Weights,
        *,
        lm: Path | None = None,
        source: Path | None = None,
        lexicon: Lexicon | None = None,
        internal: torch.Tensor | None = None,
        normalise: Callable[[str], str],
    ):
        parts = {"lm": lm, "source": source, "ilm": internal}
        if missing := [key for key, part in parts.items() if part is None and getattr(weights, key)]:
            raise DataError(f"fusion: weight of {missing[0]!r} given, and nothing that it weighs; see `adapt lm`")
        self.speech_llm, self.weights, self._normalise = speech_llm, weights, normalise
        tokenizer = speech_llm.tokenizer
        self._vocabulary = speech_llm.vocabulary
        self._ends = speech_llm.ends
        self.special = [i for i in tokenizer.all_special_ids if i not in self._ends]
        pieces = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), self._vocabulary))))
        self._begins = word_beginnings([piece or "" for piece in pieces] + [""] * (self._vocabulary - len(pieces)))
        if speech_llm.has_ctc:
            spoken = ["" if i in {*tokenizer.all_special_ids, *self._ends} else p or "" for i, p in enumerate(pieces)]
            spoken += [""] * (self._vocabulary - len(pieces))
            self._letters = spelled(spoken, speech_llm.model.config.alphabet)
        self._internal = internal
        for path in (lm, source):
            if path is not None:
                check_vocabulary(path, tokenizer)
        binary = lm is not None and arpa.kind(lm) == "binary"
        self._binary = KenlmFusion(lm, weights.lm, self._ends) if binary else None
        if binary and not of_ids(self._binary.model):
            raise DataError(f"{lm}: its words are no token ids in decimals; build it from lm/tokens.arpa of a run")
        self._lm = self._ngram(lm) if lm and not binary else None
        self._source = self._ngram(source) if source else None
        phrases = self._tokenise(lexicon.entries) if lexicon else []
        self._listed = {(phrase.inside, phrase.first): phrase.weight for phrase in phrases}
        self._boost = self._automaton([phrases]) if phrases else None

    def weighted(self, weights: Weights) -> Fusion:
        """The same with other weights."""
        other = copy.copy(self)
        other.weights = weights
        return other

    def _ngram(self, path: Path) -> Automaton:
        return ngram.load_ngrams(path, self._vocabulary, self._ends, self.special).to(self.speech_llm.device)

    def _tokenise(self, entries: Sequence[Entry]) -> list[Phrase]:
        tokenizer = self.speech_llm.tokenizer

        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        return tokenise(entries, encode, self._normalise, tokenizer.unk_token_id)

    def check(self, own: Iterable[Sequence[str] | None]) -> None:
        """Raises DataError with every phrase of an utterance's own that cannot be written in the decoder's tokens."""
        if not self.weights.boost:
            return
        self._tokenise([Entry(phrase) for phrase in dict.fromkeys(p for phrases in own for p in phrases or ())])

    def _automaton(self, lists: Sequence[Sequence[Phrase]]) -> Automaton:
        return boost(lists, self._begins, self._ends, self.special).to(self.speech_llm.device)

    def _boosts(self, own: Sequence[Sequence[str] | None]) -> list[Automaton]:
        found = [self._boost] if self._boost else []
        if any(own):
            listed = [self._own(phrases or ()) for phrases in own]
            found.append(self._automaton([self._beyond_the_lexicon(phrases) for phrases in listed]))
        return found

    def _own(self, phrases: Sequence[str]) -> list[Phrase]:
        """An utterance's own phrases in tokens; as long as they weigh nothing, those that can be written."""
        if self.weights.boost:
            return self._tokenise([Entry(phrase) for phrase in phrases])
        found = []
        for phrase in phrases:
            with suppress(DataError):
                found += self._tokenise([Entry(phrase)])
        return found

    def _beyond_the_lexicon(self, phrases: Sequence[Phrase]) -> list[Phrase]:
        """Phrases with the weight that the lexicon does not give them already."""
        more = [(p, p.weight - self._listed.get((p.inside, p.first), 0.0)) for p in phrases]
        return [dataclasses.replace(p, weight=weight) for p, weight in more if weight > 0]

    def _joint(self, posteriors: Sequence[torch.Tensor]) -> JointCtc:
        space = self.speech_llm.model.config.alphabet.find(" ")
        return JointCtc(posteriors, self._letters, space, self._ends, self.weights.ctc)

    def processors(
        self, own: Sequence[Sequence[str] | None], posteriors: Sequence[torch.Tensor] = ()
    ) -> list[LogitsProcessor]:
        """For a batch of utterances, each with phrases of its own or None.

        posteriors: what CTC says of each (`SpeechLLM.embeddings_and_posteriors`), for its weight.
        """
        weights, found = self.weights, []
        terms = [(self._lm, weights.lm), (self._source, -weights.source)]
        terms += [(automaton, weights.boost) for automaton in self._boosts(own if weights.boost else ())]
        there = [(automaton, weight) for automaton, weight in terms if automaton is not None]
        # A reward alone needs one that says which tokens are words, and says nothing else.
        terms = [term for term in there if term[1]] or (there[:1] if weights.reward else [])
        if weights.reward and not terms:
            raise DataError("fusion: a reward of tokens alone; give n-grams or a lexicon with it, or leave it out")
        if terms:
            found.append(NgramFusion(*terms[0], *terms[1:], reward=weights.reward))
        if weights.ilm:
            found.append(InternalLM(self.speech_llm.generator, self._internal, weights.ilm, self.special))
        if self._binary and weights.lm:  # behind those, for it looks at the best alone
            binary = copy.copy(self._binary)
            binary.weight = weights.lm
            found.append(binary)
        if weights.ctc:
            found.append(self._joint(posteriors))
        return found

    @torch.no_grad()
    def judged(
        self,
        prompts: Sequence[torch.Tensor],
        tokens: Sequence[Sequence[int]],
        own: Sequence[Sequence[str] | None],
        posteriors: Sequence[torch.Tensor] = (),
    ) -> list[Hypothesis]:
        """Hypotheses, each after a prompt `[length, hidden]` that holds its audio, with all that scores them.

        posteriors: of each of the utterances, which have as many hypotheses each; none: CTC is not asked.
        """
        llm = self.speech_llm
        parts = {"model": sequence_scores(llm, prompts, tokens).tolist()}
        if self._internal is not None:
            parts["ilm"] = sequence_scores(llm, [self._internal] * len(tokens), tokens).tolist()
        for key, part in (("lm", self._lm or self._binary), ("source", self._source)):
            if part is not None:
                parts[key] = part.totals(tokens).tolist()
        if boosts := self._boosts(own):
            parts["boost"] = sum(automaton.totals(tokens) for automaton in boosts).tolist()
        if posteriors:
            parts["ctc"] = self._joint(posteriors).totals(tokens).tolist()
        rows = [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
        return [Hypothesis(llm.decode(t), len(t), **row) for t, row in zip(tokens, rows, strict=True)]


@dataclass(frozen=True)
class Hypothesis:
    """A transcript of `tokens` tokens and what each part says of it: natural logs, and the bonus of its phrases."""

    text: str
    tokens: int
    model: float
    lm: float = 0.0
    source: float = 0.0
    ilm: float = 0.0
    boost: float = 0.0
    ctc: float = 0.0

    def score(self, weights: Weights) -> float:
        """What beam search ranks by: the weighted sum over the length, the end of the sentence counted."""
        fused = self.model + weights.lm * self.lm - weights.source * self.source - weights.ilm * self.ilm
        fused += weights.boost * self.boost + weights.ctc * self.ctc
        return (fused + weights.reward * self.tokens) / (self.tokens + 1)


@torch.no_grad()
def sequence_scores(
    speech_llm: SpeechLLM, prompts: Sequence[torch.Tensor], tokens: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Log probability `[rows]` of each sequence and the end of the sentence after its prompt."""
    targets = [[*t, speech_llm.ends[0]] for t in tokens]
    embeds, mask, labels = speech_llm.batch(prompts, targets)
    logits, labels = speech_llm.labelled(embeds, mask, labels)
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="none", ignore_index=IGNORED
    )
    return -losses.view(len(tokens), -1).sum(1)
