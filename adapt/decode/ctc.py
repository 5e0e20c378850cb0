"""The encoder's own hypothesis, without the decoder: greedy, with a confidence, or with a word LM and hotwords."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adapt.decode.fusion import of_ids, open_kenlm
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.lm import arpa
from adapt.model.features import pad
from adapt.model.speech_llm import SpeechLLM
from adapt.text.lexicon import Entry, Lexicon


@dataclass(frozen=True)
class Heard:
    """confidence: mean over the letters of the highest posterior in each one's run of frames, 0 to 1.

    None where no letter was heard.
    """

    text: str
    confidence: float | None


def heard(speech_llm: SpeechLLM, samples: Sequence[np.ndarray]) -> list[Heard]:
    """The most probable symbol of each frame, repeats merged, blanks dropped; for each recording (mono, 16 kHz)."""
    best = ((row.argmax(1), np.exp(row.max(1))) for row in log_posteriors(speech_llm, samples))
    alphabet = speech_llm.model.config.alphabet
    return [collapsed(symbols.tolist(), posteriors.tolist(), alphabet) for symbols, posteriors in best]


@torch.no_grad()
def log_posteriors(speech_llm: SpeechLLM, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log probabilities `[frames, alphabet + 1]` of each recording (mono, 16 kHz)."""
    encoder = speech_llm.model.encoder
    logits, lengths = encoder(*encoder.inputs(*(x.to(speech_llm.device) for x in pad(samples))))
    rows = logits.float().log_softmax(-1).cpu().numpy()
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def collapsed(path: Sequence[int], posteriors: Sequence[float], alphabet: str) -> Heard:
    """Text and confidence of a path, a symbol a frame; those beyond the alphabet are blank.

    >>> collapsed([0, 0, 2, 0, 1], [0.5, 0.7, 1.0, 0.9, 0.8], "ab")
    Heard(text='aab', confidence=0.8)
    """
    letters, best = [], []
    last = None
    for symbol, posterior in zip(path, posteriors, strict=True):
        if symbol < len(alphabet):
            if symbol == last:
                best[-1] = max(best[-1], posterior)
            else:
                letters.append(alphabet[symbol])
                best.append(posterior)
        last = symbol
    return Heard(" ".join("".join(letters).split()), round(sum(best) / len(best), 4) if best else None)


class CtcFusion:
    """Beam search over the encoder's own letters with a word n-gram and a lexicon, by pyctcdecode.

    lm: a file that KenLM reads, of words; None: none. lexicon: its entries whose weight is above 0 are hotwords, all of
    one weight, and so are an utterance's own phrases; what the encoder's letters cannot write is left out. weights:
    `lm` (pyctcdecode's alpha), `reward` of a word (beta), `boost` of a hotword; `source` and `ilm` have no meaning
    here. Raises DataError where pyctcdecode is not installed, for a file that KenLM cannot read, and where nothing of
    the lexicon can be written.
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
            from pyctcdecode import Alphabet, BeamSearchDecoderCTC, LanguageModel
        except ImportError:
            raise DataError("pyctcdecode: not installed; it needs kenlm, which builds on Python before 3.13") from None
        self.speech_llm, self.weights, self._normalise = speech_llm, weights, normalise
        for name in ("alphabet", "decoder", "language_model"):  # they warn of what is meant to be
            logging.getLogger(f"pyctcdecode.{name}").setLevel(logging.ERROR)
        model = None
        if lm is not None and weights.lm:
            kind, kenlm = arpa.kind(lm), open_kenlm(lm)
            if kind in ("ids", "nemo") or (kind == "binary" and of_ids(kenlm)):
                raise DataError(f"{lm}: its words are token ids; --decoder ctc wants words, as lm/words.arpa of a run")
            words = None if kind == "binary" else arpa.words(lm)
            model = LanguageModel(kenlm, words, alpha=weights.lm, beta=weights.reward)
        decoder = BeamSearchDecoderCTC(Alphabet.build_alphabet([*speech_llm.model.config.alphabet, ""]), model)
        weakref.finalize(self, decoder.cleanup)  # pyctcdecode keeps the model of each for good
        self._decoder = decoder
        self._hotwords = self._forms(lexicon.entries) if lexicon else []
        if lexicon and weights.boost and not self._hotwords:
            letters = speech_llm.model.config.alphabet
            raise DataError(f"lexicon {lexicon.name}: none of it can be written in {letters!r}; --normaliser basic may")

    def _forms(self, entries: Sequence[Entry]) -> list[str]:
        forms = (
            self._normalise(form) for entry in entries if entry.weight > 0 for form in (entry.written, *entry.spoken)
        )
        alphabet = set(self.speech_llm.model.config.alphabet)
        return [form for form in dict.fromkeys(forms) if form and alphabet.issuperset(form)]

    def heard(self, samples: Sequence[np.ndarray], phrases: Sequence[Sequence[str] | None]) -> list[str]:
        """The transcript of each recording (mono, 16 kHz); phrases: of each utterance its own, or None."""
        rows = log_posteriors(self.speech_llm, samples)
        return [self.decode(row, own) for row, own in zip(rows, phrases, strict=True)]

    def decode(self, logits: np.ndarray, phrases: Sequence[str] | None = None) -> str:
        """The transcript of log probabilities `[frames, alphabet + 1]`."""
        own = self._forms([Entry(phrase) for phrase in phrases or ()])
        hotwords = [*self._hotwords, *own] if self.weights.boost else []
        text = self._decoder.decode(logits, hotwords=hotwords or None, hotword_weight=self.weights.boost)
        return " ".join(text.split())
