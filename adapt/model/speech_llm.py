"""One view of a speech LLM: embeddings around the slot, real audio in it, and training batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from adapt.errors import ModelError
from adapt.model.bases import locate
from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
from adapt.model.encoders import CtcEncoder
from adapt.model.features import pad
from adapt.text.template import split_template

IGNORED = -100  # label of positions without a loss
BLANK = "_"  # the CTC blank in a path that is written out


@dataclass
class SpeechLLM:
    """A model with its tokenizer and the token ids around its slot.

    `before` and `after` are tokenised apart from each other and from the target, so that no merge across a
    boundary can take a sub-word out of the loss.
    """

    name: str
    model: ComposedForSpeechRecognition
    tokenizer: PreTrainedTokenizerBase
    before: list[int]
    after: list[int]

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Token embeddings `[len(ids), hidden]`."""
        return self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=self.device))

    def target_ids(self, text: str) -> list[int]:
        """Token ids of a transcript, with the end of sentence."""
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    @torch.no_grad()
    def slot_vectors(self, samples: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """What real audio (mono, 16 kHz) puts into the slot: `[slots, hidden]` for each recording."""
        return self.model.get_audio_features(*self.model.encoder.inputs(*(x.to(self.device) for x in pad(samples))))

    @torch.no_grad()
    def heard(
        self, samples: Sequence[np.ndarray], to_inputs: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
    ) -> tuple[list[str], list[torch.Tensor]]:
        """CTC path and slot vectors `[slots, hidden]` of each recording.

        A path is the encoder's most probable symbol of each frame, `_` for the blank. `to_inputs` takes the encoder,
        samples and lengths, and gives what `CtcEncoder.inputs` does, which None stands for.
        """
        encoder = self.model.encoder
        frames, lengths = encoder.frames(
            *(to_inputs or CtcEncoder.inputs)(encoder, *(x.to(self.device) for x in pad(samples)))
        )
        return paths(encoder, frames, lengths), self.model.project(frames, lengths)

    def prompt(self, slot: torch.Tensor | None) -> torch.Tensor:
        """Embeddings of the prompt with `slot` (`[slots, hidden]`) in its place; None leaves the prompt away.

        Without a prompt only its first token (the beginning of sentence) is left, as text alone would have it.
        """
        if slot is None:
            return self.embed(self.before[:1])
        return torch.cat([self.embed(self.before), slot.to(self.model.dtype), self.embed(self.after)])

    def prompt_without_audio(self) -> torch.Tensor:
        """Embeddings of the prompt with nothing in its slot: what the decoder then says is its internal LM."""
        return self.prompt(self.model.get_input_embeddings().weight[:0])

    def training_batch(
        self, slots: Sequence[torch.Tensor | None], targets: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Right-padded `inputs_embeds [batch, length, hidden]`, `attention_mask` and `labels [batch, length]`.

        `length` is a multiple of 16. Only the targets carry a label.
        """
        return self.batch([self.prompt(slot) for slot in slots], targets)

    def batch(
        self, prompts: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `training_batch`, of prompts `[length, hidden]` that are made already."""
        rows, labels = [], []
        for prompt, target in zip(prompts, targets, strict=True):
            rows.append(torch.cat([prompt, self.embed(target)]))
            labels.append(torch.tensor([IGNORED] * len(prompt) + list(target), device=self.device))
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        # Few different lengths: kernels are planned anew for each that they meet.
        spare = -int(lengths.max()) % 16
        embeds = F.pad(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), (0, 0, 0, spare))
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        padded = F.pad(padded, (0, spare), value=IGNORED)
        mask = torch.arange(embeds.shape[1], device=self.device)[None] < lengths[:, None]
        return embeds, mask.long(), padded


def paths(encoder: CtcEncoder, frames: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """The most probable symbol of each frame, a letter or `_` for the blank, as text; one of each recording."""
    symbols = encoder.config.alphabet + BLANK
    best = encoder.ctc(frames).argmax(-1).tolist()
    return ["".join(symbols[s] for s in row[:n]) for row, n in zip(best, lengths.tolist(), strict=True)]


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross entropy over the labelled positions of `logits [batch, length, vocabulary]`."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


def load(name: str, device: str = "auto") -> SpeechLLM:
    """Load a speech LLM: the name of a built-in one, or a folder. `auto`: CUDA where it is there, else CPU.

    Raises `ModelError` when there is no such model or its weights do not fit its config.
    """
    path = locate(name)
    config = AutoConfig.from_pretrained(path)
    if not isinstance(config, ComposedConfig):
        raise ModelError(f"base: {name!r} is a {config.model_type!r} model; only {ComposedConfig.model_type!r} so far")
    logging.disable_progress_bar()  # weights of a second are not worth a bar
    model, report = ComposedForSpeechRecognition.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    amiss = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if amiss:
        raise ModelError(f"{path}: {len(amiss)} weights do not fit, first {amiss[0]!r}; save the model again")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return view(name, model.to(device).eval(), AutoTokenizer.from_pretrained(path))


def load_tokenizer(name: str) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a speech LLM, and how many outputs its decoder has."""
    path = locate(name)
    config = AutoConfig.from_pretrained(path)
    return AutoTokenizer.from_pretrained(path), config.get_text_config(decoder=True).vocab_size


def view(name: str, model: ComposedForSpeechRecognition, tokenizer: PreTrainedTokenizerBase) -> SpeechLLM:
    """The view of a model that is in memory already."""
    before, after = split_template(model.config.prompt)
    ids = [tokenizer.encode(text, add_special_tokens=False) if text else [] for text in (before, after)]
    beginning = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    return SpeechLLM(name, model, tokenizer, beginning + ids[0], ids[1])
