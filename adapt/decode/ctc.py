"""The encoder's own hypothesis, without the decoder: greedy, with a confidence, or with a word LM and hotwords."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adapt.decode.fusion import open_kenlm
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


@torch.no_grad()
def heard(speech_llm: SpeechLLM, samples: Sequence[np.ndarray]) -> list[Heard]:
    """The most probable symbol of each frame, repeats merged, blanks dropped; for each recording (mono, 16 kHz)."""
    model = speech_llm.model
    logits, lengths = model.encoder(*model.encoder.inputs(*(x.to(speech_llm.device) for x in pad(samples))))
    posteriors, symbols = logits.float().softmax(-1).max(-1)
    rows = zip(posteriors.tolist(), symbols.tolist(), lengths.tolist(), strict=True)
    return [collapsed(row[1][: row[2]], row[0][: row[2]], model.config.alphabet) for row in rows]


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

    lm: a file that KenLM reads, of words; None: none. lexicon: its words are hotwords, and so are an utterance's own
    phrases. weights: `lm` (pyctcdecode's alpha), `reward` of a word (beta), `boost` of a hotword; `source` and `ilm`
    have no meaning here. Raises DataError where pyctcdecode is not installed, and for a file that KenLM cannot read.
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
            if (kind := arpa.kind(lm)) in ("ids", "nemo"):
                raise DataError(f"{lm}: its words are token ids; --decoder ctc wants words, as lm/words.arpa of a run")
            words = None if kind == "binary" else arpa.words(lm)
            model = LanguageModel(open_kenlm(lm), words, alpha=weights.lm, beta=weights.reward)
        self._decoder = BeamSearchDecoderCTC(Alphabet.build_alphabet([*speech_llm.model.config.alphabet, ""]), model)
        self._hotwords = self._forms(lexicon.entries) if lexicon else []

    def _forms(self, entries: Sequence[Entry]) -> list[str]:
        forms = (self._normalise(form) for entry in entries for form in (entry.written, *entry.spoken))
        alphabet = set(self.speech_llm.model.config.alphabet)
        return [form for form in dict.fromkeys(forms) if form and alphabet.issuperset(form)]

    def heard(self, samples: Sequence[np.ndarray], phrases: Sequence[Sequence[str] | None]) -> list[str]:
        """The transcript of each recording (mono, 16 kHz); phrases: of each utterance its own, or None."""
        return [self.decode(row, own) for row, own in zip(self.posteriors(samples), phrases, strict=True)]

    @torch.no_grad()
    def posteriors(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log probabilities `[frames, alphabet + 1]` of each recording."""
        model = self.speech_llm.model
        inputs = model.encoder.inputs(*(x.to(self.speech_llm.device) for x in pad(samples)))
        logits, lengths = model.encoder(*inputs)
        rows = logits.float().log_softmax(-1).cpu().numpy()
        return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]

    def decode(self, logits: np.ndarray, phrases: Sequence[str] | None = None) -> str:
        """The transcript of log probabilities `[frames, alphabet + 1]`."""
        own = self._forms([Entry(phrase) for phrase in phrases or ()])
        hotwords = [*self._hotwords, *own] if self.weights.boost else []
        text = self._decoder.decode(logits, hotwords=hotwords or None, hotword_weight=self.weights.boost)
        return " ".join(text.split())
