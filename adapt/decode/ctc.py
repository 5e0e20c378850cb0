"""CTC hypotheses, without the decoder: greedy with a confidence, or by beam search with a word LM and hotwords."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from adapt.decode.kenlm import open_kenlm, words_are_token_ids
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.lm import arpa
from adapt.model.features import pad
from adapt.model.speech_llm import SpeechLLM
from adapt.text.lexicon import Entry, Lexicon


@dataclass(frozen=True)
class CtcTranscript:
    """A greedy CTC hypothesis.

    confidence: the mean, over the letters, of the highest posterior in the frames of a letter, 0 to 1; None without
    letters.
    """

    text: str
    confidence: float | None


def greedy_transcripts(speech_llm: SpeechLLM, samples: Sequence[np.ndarray]) -> list[CtcTranscript]:
    """The greedy hypothesis of each recording (mono, 16 kHz): repeats merged, blanks dropped."""
    best = ((row.argmax(1), np.exp(row.max(1))) for row in log_posteriors(speech_llm, samples))
    alphabet = speech_llm.model.config.alphabet
    return [collapse(symbols.tolist(), posteriors.tolist(), alphabet) for symbols, posteriors in best]


@torch.no_grad()
def log_posteriors(speech_llm: SpeechLLM, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """CTC log posteriors `[frames, alphabet + 1]` of each recording (mono, 16 kHz); the blank comes last."""
    encoder = speech_llm.model.encoder
    logits, lengths = encoder(*encoder.inputs(*(x.to(speech_llm.device) for x in pad(samples))))
    rows = logits.float().log_softmax(-1).cpu().numpy()
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def log_probability(posteriors: torch.Tensor, text: str, alphabet: str) -> float:
    """The CTC log probability of a text, -inf for one with more letters than frames; unknown letters are left out.

    posteriors: log posteriors `[frames, alphabet + 1]`, the blank last.

    >>> sure = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    >>> round(log_probability(sure, "a!", "a"), 4)  # "a" and a blank, "aa", or a blank and "a"
    -0.0834
    """
    letters = torch.tensor([alphabet.index(letter) for letter in text if letter in alphabet], dtype=torch.long)
    frames, count = torch.tensor([len(posteriors)]), torch.tensor([len(letters)])
    rows = posteriors.cpu()[:, None]
    return -F.ctc_loss(rows, letters[None], frames, count, blank=len(alphabet), reduction="sum").item()


def collapse(path: Sequence[int], posteriors: Sequence[float], alphabet: str) -> CtcTranscript:
    """The text and confidence of a path, one symbol for each frame; symbols beyond the alphabet are blanks.

    >>> collapse([0, 0, 2, 0, 1], [0.5, 0.7, 1.0, 0.9, 0.8], "ab")
    CtcTranscript(text='aab', confidence=0.8)
    """
    letters, highest = [], []
    last = None
    for symbol, posterior in zip(path, posteriors, strict=True):
        if symbol < len(alphabet):
            if symbol == last:
                highest[-1] = max(highest[-1], posterior)
            else:
                letters.append(alphabet[symbol])
                highest.append(posterior)
        last = symbol
    confidence = round(sum(highest) / len(highest), 4) if highest else None
    return CtcTranscript(" ".join("".join(letters).split()), confidence)


class CtcFusion:
    """Beam search over CTC posteriors with a word n-gram LM and hotwords, by pyctcdecode.

    lm: an LM over words that KenLM reads; None: no LM. lexicon: its entries with a weight above 0 are hotwords, and so
    are the `phrases` of an utterance; None: no lexicon. All hotwords have the same weight; phrases that the encoder's
    alphabet cannot write are left out. weights: `lm` (pyctcdecode's alpha), `reward` of a word (beta) and `boost` of a
    hotword; the others do not apply. Raises DataError if pyctcdecode is not installed, for a file that KenLM cannot
    read, and for a lexicon without an entry that the alphabet can write.
    """

    def __init__(
        self,
        speech_llm: SpeechLLM,
        weights: Weights,
        *,
        lm: Path | None = None,
        lexicon: Lexicon | None = None,
        normalise: Callable[[str], str],
    ):
        try:
            from pyctcdecode import Alphabet, BeamSearchDecoderCTC
        except ImportError:
            problem = "pyctcdecode: not installed; install it, with kenlm, on a Python before 3.13"
            raise DataError(problem) from None
        for name in ("alphabet", "decoder", "language_model"):  # their warnings are about intended settings
            logging.getLogger(f"pyctcdecode.{name}").setLevel(logging.ERROR)
        self.weights, self._normalise = weights, normalise
        self.speech_llm = speech_llm
        alphabet = speech_llm.model.config.alphabet
        model = _word_lm(lm, weights, alphabet) if lm is not None and weights.lm else None
        decoder = BeamSearchDecoderCTC(Alphabet.build_alphabet([*alphabet, ""]), model)
        weakref.finalize(self, decoder.cleanup)  # otherwise pyctcdecode keeps every model in memory
        self._decoder = decoder
        self._hotwords = self._writable(lexicon.entries) if lexicon else []
        if lexicon and weights.boost and not self._hotwords:
            problem = f"none of it can be written in the encoder's alphabet {alphabet!r}"
            raise DataError(f"lexicon {lexicon.name}: {problem}; try --normaliser basic")

    def _writable(self, entries: Sequence[Entry]) -> list[str]:
        """The forms of entries that the encoder's alphabet can write, normalised."""
        forms = (
            self._normalise(form) for entry in entries if entry.weight > 0 for form in (entry.written, *entry.spoken)
        )
        alphabet = set(self.speech_llm.model.config.alphabet)
        return [form for form in dict.fromkeys(forms) if form and alphabet.issuperset(form)]

    def transcripts(self, samples: Sequence[np.ndarray], phrases: Sequence[Sequence[str] | None]) -> list[str]:
        """The transcript of each recording (mono, 16 kHz). phrases: those of each utterance, or None."""
        rows = log_posteriors(self.speech_llm, samples)
        return [self.decode(row, of_utterance) for row, of_utterance in zip(rows, phrases, strict=True)]

    def decode(self, logits: np.ndarray, phrases: Sequence[str] | None = None) -> str:
        """The transcript of log posteriors `[frames, alphabet + 1]`. phrases: those of the utterance, or None."""
        of_utterance = self._writable([Entry(phrase) for phrase in phrases or ()])
        hotwords = [*self._hotwords, *of_utterance] if self.weights.boost else []
        text = self._decoder.decode(logits, hotwords=hotwords or None, hotword_weight=self.weights.boost)
        return " ".join(text.split())


def _word_lm(path: Path, weights: Weights, alphabet: str):
    """The language model of pyctcdecode from a file of words.

    Raises DataError for a file of token ids, and for words of which the alphabet can spell less than half.
    """
    from pyctcdecode import LanguageModel

    kind, kenlm = arpa.kind(path), open_kenlm(path)
    if kind in ("ids", "nemo") or (kind == "binary" and words_are_token_ids(kenlm)):
        problem = "its words are token ids, but --decoder ctc needs an LM over words"
        raise DataError(f"{path}: {problem}; give lm/words.arpa of a run")
    words = None if kind == "binary" else arpa.words(path)
    foreign = [word for word in words or () if not set(word) <= set(alphabet)]
    if words and len(foreign) > len(words) / 2:
        problem = f"{len(foreign) / len(words):.0%} of its words have other letters than the encoder's {alphabet!r}"
        raise DataError(f"{path}: {problem}, such as {foreign[0]!r}; estimate it from text in these letters")
    return LanguageModel(kenlm, words, alpha=weights.lm, beta=weights.reward)
