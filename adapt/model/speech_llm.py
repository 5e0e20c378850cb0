"""One view of every speech LLM: embeddings around the slot, real audio in it, and training batches of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from peft import PeftModel
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from adapt.errors import ModelError, first_line
from adapt.model.composed import ComposedForSpeechRecognition
from adapt.model.encoders import CtcEncoder
from adapt.model.families import Request, family_of, in_chat, merged_embeddings, rate_of
from adapt.model.features import SAMPLE_RATE, pad, resampled
from adapt.model.generator import Generator
from adapt.text.template import SLOT

if TYPE_CHECKING:
    from adapt.model.learned_prompt import LearnedPrompt

IGNORED = -100  # label of positions without a loss
BLANK = "_"  # the CTC blank in a path that is written out


@dataclass
class SpeechLLM:
    """A model with its tokenizer and the token ids around its slot.

    What goes into the decoder are rows `[length, width]`: a token's embedding or an audio embedding, and behind it, in
    families whose layers take inputs of their own, those. `before` and `after` are tokenised apart from the target, so
    that no merge across a boundary can take a sub-word out of the loss. ends: tokens that end a transcript; targets
    end in the first. processor: None for a model of our own. language: what the prompt says. scale: what the logits are
    divided by. adapters: what `adapter.attach` has put on the model. learned: stands around the slot, in place of
    `before` and `after`. own: what the processor writes around it.
    prompts: those of the adapters by name, and of the base itself by None.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    before: list[int]
    after: list[int]
    ends: list[int]
    max_seconds: float
    processor: ProcessorMixin | None = None
    language: str = "en"
    scale: float = 1.0
    adapters: PeftModel | None = None
    learned: LearnedPrompt | None = None
    own: tuple[Sequence[int], Sequence[int]] = ((), ())
    prompts: dict[str | None, LearnedPrompt] = field(default_factory=dict)

    def use(self, adapter: str | None) -> None:
        """Decode with one of the adapters that are attached, and its prompt; None: with the base alone."""
        if self.adapters is None:
            return
        self.learned = self.prompts.get(adapter, self.prompts.get(None))
        if adapter is None:
            self.adapters.base_model.disable_adapter_layers()
        else:
            self.adapters.base_model.enable_adapter_layers()
            self.adapters.set_adapter(adapter)

    def chat(self, before: str, behind: str) -> tuple[str, str]:
        """What stands before and behind the slot in the chat template, where a user says this around the audio.

        Raises `ModelError` for a model that has none, or none with audio.
        """
        if self.processor is None and not self.tokenizer.chat_template:
            raise ModelError(f"{self.name}: has no chat template; write the prompt without <chat>")
        try:
            if self.processor is None:
                turn = [{"role": "user", "content": f"{before}{SLOT}{behind}"}]
                text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
                found = tuple(text.split(SLOT))
                if len(found) != 2:
                    raise ValueError(f"it writes what a user says {len(found) - 1} times")
                return found
            around = in_chat(self.processor, self.model.config, self.name, (before, behind))
            return tuple(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in around)
        except (ValueError, TypeError, KeyError, AttributeError, ImportError, TemplateError) as error:
            told = f"{self.name}: no chat template that takes audio: {first_line(error)}"
            raise ModelError(f"{told}; write the prompt without <chat>") from None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def has_ctc(self) -> bool:
        """Is there an encoder with a CTC head beside the decoder?"""
        return isinstance(self.model, ComposedForSpeechRecognition) and bool(self.model.config.alphabet)

    @property
    def hidden(self) -> int:
        """Width of an audio embedding."""
        return self.model.get_input_embeddings().weight.shape[1]

    @functools.cached_property
    @torch.no_grad()
    def vocabulary(self) -> int:
        """How many outputs the decoder has; often more than tokens."""
        return self.forward(self.embed([0])[None]).shape[-1]  # configs and heads do not always agree

    @functools.cached_property
    def generator(self) -> Generator:
        """The decoder for `generate`."""
        return Generator(self)

    @functools.cached_property
    def _per_layer(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        # Gemma 3n and 4: each token has an input of its own in every layer.
        size = getattr(self.model.config.get_text_config(decoder=True), "hidden_size_per_layer_input", 0)
        if not size:
            return None
        given = self.model.get_decoder().get_per_layer_inputs
        more = (None,) * (len(inspect.signature(given).parameters) - 1)
        return lambda ids: given(ids, *more).flatten(-2)

    @functools.cached_property
    def _keeps(self) -> bool:
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `[..., width]` of token ids."""
        rows = family_of(self.model.config).embed(self.model, ids)
        return torch.cat([rows, self._per_layer(ids).to(rows.dtype)], -1) if self._per_layer else rows

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Rows `[len(ids), width]` of token ids."""
        return self.rows(torch.tensor(ids, dtype=torch.long, device=self.device))

    @property
    def empty_slot(self) -> torch.Tensor:
        """An empty slot, `[0, hidden]`."""
        return self.model.get_input_embeddings().weight[:0]

    def forward(
        self,
        rows: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        cache: Cache | None = None,
        keep: int = 0,
        *,
        through: torch.nn.Module | None = None,
    ) -> torch.Tensor:
        """Logits `[batch, length, vocabulary]` of rows `[batch, length, width]`; of the last `keep` unless 0.

        positions: None counts from the end of the cache. through: what wraps the model in training; None: the model.
        """
        model, more = through or self.model, {}
        if self._per_layer:
            layers = self.model.config.get_text_config(decoder=True).num_hidden_layers
            more["per_layer_inputs"] = rows[..., self.hidden :].unflatten(-1, (layers, -1))
            rows = rows[..., : self.hidden]
        if hasattr(getattr(self.model, "model", None), "rope_deltas"):
            # Qwen's omni models count in three dimensions, and from where they stood in an earlier call.
            self.model.model.rope_deltas = None
            if positions is None:
                past = cache.get_seq_length() if cache is not None else 0
                positions = torch.arange(past, past + rows.shape[1], device=rows.device).expand(len(rows), -1)
            positions = positions.expand(3, *positions.shape)
        if keep and self._keeps:
            more["logits_to_keep"] = keep
        if positions is not None:
            more["position_ids"] = positions
        if cache is not None:
            more["past_key_values"] = cache
        logits = model(inputs_embeds=rows, attention_mask=mask, use_cache=cache is not None, **more).logits
        logits = logits[:, -keep:] if keep else logits
        return logits if self.scale == 1 else logits / self.scale

    def labelled(
        self,
        rows: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor,
        *,
        through: torch.nn.Module | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `token_loss` takes: logits and labels from the place on where the first label is predicted.

        rows, mask, labels: as `batch` gives them. What stands before would cost as much, and has no loss.
        """
        keep = labels.shape[1] + 1 - int((labels != IGNORED).any(0).int().argmax())
        return self.forward(rows, mask, keep=keep, through=through), labels[:, -keep:]

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """While the decoder is trained on a CPU: its attention without torch's fused kernels, which are slower there.

        Backward above all, in bf16. The logits differ by what rounding makes of them.
        """
        decoder = self.model.get_decoder()
        before = decoder.config._attn_implementation
        if self.device.type != "cpu" or before != "sdpa":
            yield
            return
        decoder.set_attn_implementation("eager")
        try:
            yield
        finally:
            decoder.set_attn_implementation(before)

    def new_cache(self) -> Cache:
        """An empty cache for `forward`."""
        return DynamicCache(config=self.model.config.get_text_config(decoder=True))

    def target_ids(self, text: str) -> list[int]:
        """Token ids of a transcript, with the end of sentence."""
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.ends[0]]

    def decode(self, ids: Sequence[int]) -> str:
        return family_of(self.model.config).spoken(self.tokenizer.decode(ids, skip_special_tokens=True).strip())

    @torch.no_grad()
    def audio_embeddings(self, samples: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """What real audio (mono, 16 kHz) puts into the slot: `[slots, hidden]` for each recording."""
        return self.audio_embeddings_with_gradient(samples)

    @torch.no_grad()
    def embeddings_and_posteriors(self, samples: Sequence[np.ndarray]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """`audio_embeddings`, and the log posteriors `[frames, alphabet + 1]` of the CTC head; the blank comes last."""
        frames, lengths = self.frames(samples)
        logs = self.model.encoder.ctc(frames).float().log_softmax(-1)
        return self.model.project(frames, lengths), [row[:n] for row, n in zip(logs, lengths.tolist(), strict=True)]

    def audio_embeddings_with_gradient(self, samples: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """As `audio_embeddings`, with the gradient, to train what hears."""
        if self.processor is None:
            return self.model.project(*self.frames(samples))
        # One at a time: encoders differ in what padding does to them, and one is exact.
        return [self._captured(row) for row in samples]

    def frames(self, samples: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder of a model of our own makes of recordings: as `CtcEncoder.frames`."""
        encoder = self.model.encoder
        with torch.autocast(self.device.type, enabled=False):
            inputs = encoder.inputs(*(x.to(self.device) for x in pad(samples)))
        return encoder.frames(*inputs)

    def _captured(self, samples: np.ndarray) -> torch.Tensor:
        family = family_of(self.model.config)
        request = Request(resampled(samples, SAMPLE_RATE, rate_of(self.processor)), self.language, self.name)
        inputs = family.request(self.processor, request).to(self.device, self.model.dtype)
        ids = inputs["input_ids"][0].tolist()
        before, after = self.own
        first, end = len(before), len(ids) - len(after)
        if (ids[:first], ids[end:]) != (before, after):
            raise ModelError(f"{self.name}: its processor wrote another prompt for this audio than for silence; cut it")
        return merged_embeddings(self.model, inputs, family)[0, first:end]

    @torch.no_grad()
    def ctc_paths(
        self, samples: Sequence[np.ndarray], to_inputs: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
    ) -> tuple[list[str], list[torch.Tensor]]:
        """CTC path and audio embeddings `[slots, hidden]` of each recording.

        A path is the encoder's most probable symbol of each frame, `_` for the blank. `to_inputs` takes the encoder,
        samples and lengths, and gives what `CtcEncoder.inputs` does, which None stands for.
        """
        encoder = self.model.encoder
        frames, lengths = encoder.frames(
            *(to_inputs or CtcEncoder.inputs)(encoder, *(x.to(self.device) for x in pad(samples)))
        )
        return paths(encoder, frames, lengths), self.model.project(frames, lengths)

    def prompt(self, slot: torch.Tensor | None) -> torch.Tensor:
        """Rows of the prompt with `slot` (`[slots, hidden]`) in its place; None leaves the prompt away.

        Without a prompt only its first token (the beginning of sentence) is left, as text alone would have it.
        """
        if slot is None:
            return self.embed(self.before[:1])
        before, after = self.learned.rows(self) if self.learned else (self.embed(self.before), self.embed(self.after))
        return torch.cat([before, self.in_slot(slot), after])

    def in_slot(self, slot: torch.Tensor) -> torch.Tensor:
        """Rows `[length, width]` of vectors `[length, hidden]` that are no token's."""
        slot = slot.to(self.device, self.model.dtype)
        if not self._per_layer:
            return slot
        # Audio has no token: its families take the padding for one there.
        padding = self.model.config.get_text_config(decoder=True).pad_token_id or 0
        return torch.cat([slot, self.embed([padding] * len(slot))[:, self.hidden :]], -1)

    def prompt_without_audio(self) -> torch.Tensor:
        """Rows of the prompt with nothing in its slot: what the decoder then says is its internal LM."""
        return self.prompt(self.empty_slot)

    def training_batch(
        self, slots: Sequence[torch.Tensor | None], targets: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Right-padded rows `[batch, length, width]`, `attention_mask` and `labels [batch, length]`.

        `length` is a multiple of 16. Only the targets carry a label.
        """
        return self.batch([self.prompt(slot) for slot in slots], targets)

    def batch(
        self, prompts: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `training_batch`, of prompts `[length, width]` that are made already."""
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
