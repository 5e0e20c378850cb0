"""One view of every speech LLM: the rows of its prompt, the audio embeddings in its slot, and its logits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from peft import PeftModel
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from adapt.errors import ModelError, first_line
from adapt.model.composed import ComposedForSpeechRecognition
from adapt.model.encoders import CtcEncoder, greedy_paths
from adapt.model.families import Request, family_of, sampling_rate
from adapt.model.features import SAMPLE_RATE, pad, resampled
from adapt.model.generator import Generator
from adapt.model.heard_folder import HeardFolder
from adapt.model.slot import audio_token_id, chat_ids_around_slot, ids_around_slot, merged_embeddings
from adapt.text.template import CHAT_MARK, SLOT

IGNORED = -100  # label of positions without a loss


class PromptAroundSlot(Protocol):
    """The part of a `learned_prompt.LearnedPrompt` that a speech LLM uses. template: see `text.template`."""

    template: str

    def rows(self, speech_llm: SpeechLLM) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows `[length, width]` before and after the slot."""
        ...

    def save(self, path: Path, speech_llm: SpeechLLM) -> None:
        """Write the prompt to a file."""
        ...


@dataclass
class SpeechLLM:
    """A model with its tokenizer and the token ids around its slot.

    The input of the decoder is rows `[length, width]`. A row is a token embedding or an audio embedding. In families
    whose layers take a further input for each token, these inputs are appended to the row.

    before, after: token ids of the prompt before and after the slot. They are tokenised apart from the target, so that
    no merge across the boundary removes a sub-word from the loss. ends: tokens that end a transcript; a target ends in
    the first of them. max_seconds: the longest recording that the encoder takes. processor: None for a composed model.
    language: ISO 639-1, for prompts that name it. scale: the divisor of the logits. adapters: the model with the
    adapters of `adapter.attach`; None without one. learned: the learned prompt that replaces `before` and `after`; None
    for none. processor_prompt: the processor's token ids before and after the slot. prompts: the learned prompts of the
    adapters by name, and that of the base under None. heard: the folder of what the functions of
    `adapt.model.heard` found in recordings; None: it is computed anew in each call, as where the encoder is trained.
    packs: whether texts may share rows (`adapt.model.packing`); None: not known yet. caches: whether they may share the
    cache of a prompt, in training too; None: not known yet.
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
    learned: PromptAroundSlot | None = None
    processor_prompt: tuple[Sequence[int], Sequence[int]] = ((), ())
    prompts: dict[str | None, PromptAroundSlot] = field(default_factory=dict)
    heard: HeardFolder | None = None
    packs: bool | None = None
    caches: bool | None = None

    def use(self, adapter: str | None) -> None:
        """Switch to one of the attached adapters and its prompt. adapter: its name; None: the base alone."""
        if self.adapters is None:
            return
        self.learned = self.prompts.get(adapter, self.prompts.get(None))
        if adapter is None:
            self.adapters.base_model.disable_adapter_layers()
        else:
            self.adapters.base_model.enable_adapter_layers()
            self.adapters.set_adapter(adapter)

    def chat(self, before: str, after: str) -> tuple[str, str]:
        """The prompt before and after the slot by the chat template. before, after: the user's text around the audio.

        Raises `ModelError` for a model without a chat template, or with one that takes no audio.
        """
        if self.processor is None and not self.tokenizer.chat_template:
            raise ModelError(f"{self.name}: has no chat template; write the prompt without {CHAT_MARK}")
        try:
            if self.processor is None:
                turn = [{"role": "user", "content": f"{before}{SLOT}{after}"}]
                text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
                texts = tuple(text.split(SLOT))
                if len(texts) != 2:
                    raise ValueError(f"it writes what the user says {len(texts) - 1} times")
                return texts
            ids = chat_ids_around_slot(self.processor, self.model.config, self.name, (before, after))
            return tuple(self.tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in ids)
        except (ValueError, TypeError, KeyError, AttributeError, ImportError, TemplateError) as error:
            problem = f"{self.name}: no chat template that takes audio: {first_line(error)}"
            raise ModelError(f"{problem}; write the prompt without {CHAT_MARK}") from None

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    @property
    def has_ctc(self) -> bool:
        """Whether the audio encoder has a CTC head. One that transcribes has none that is of use."""
        composed = isinstance(self.model, ComposedForSpeechRecognition)
        return composed and bool(self.model.config.alphabet) and not self.transcribes

    @property
    def transcribes(self) -> bool:
        """Whether the audio encoder transcribes, so that the slot holds tokens (`adapt.model.first_pass`)."""
        return isinstance(self.model, ComposedForSpeechRecognition) and self.model.encoder.transcribes

    @property
    def hidden(self) -> int:
        """Dimensions of an audio embedding."""
        return self.model.get_input_embeddings().weight.shape[1]

    @functools.cached_property
    @torch.no_grad()
    def vocabulary(self) -> int:
        """Number of outputs of the decoder; often larger than the number of tokens of its tokenizer."""
        return self.forward(self.embed([0])[None]).shape[-1]  # a config and its head do not always agree

    @functools.cached_property
    def generator(self) -> Generator:
        """The decoder in the form that `generate` of transformers expects."""
        return Generator(self)

    @functools.cached_property
    def _per_layer(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        # In Gemma 3n and 4 every layer takes a further input for each token.
        size = getattr(self.model.config.get_text_config(decoder=True), "hidden_size_per_layer_input", 0)
        if not size:
            return None
        per_layer = self.model.get_decoder().get_per_layer_inputs
        others = (None,) * (len(inspect.signature(per_layer).parameters) - 1)
        return lambda ids: per_layer(ids, *others).flatten(-2)

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
        """Logits `[batch, length, vocabulary]` of rows `[batch, length, width]`.

        mask: attention mask `[batch, length]`, or what is added to attention, `[batch, 1, length, length]`; None: no
        padding. positions: `[batch, length]`; None: those after the
        cache. cache: of earlier rows; None: no cache. keep: only the logits of the last rows; 0: of all. through: the
        module that wraps the model in training; None: the model.
        """
        model, arguments = through or self.model, {}
        if self._per_layer:
            layers = self.model.config.get_text_config(decoder=True).num_hidden_layers
            arguments["per_layer_inputs"] = rows[..., self.hidden :].unflatten(-1, (layers, -1))
            rows = rows[..., : self.hidden]
        if hasattr(getattr(self.model, "model", None), "rope_deltas"):
            # Qwen's omni models have positions in three dimensions, and would continue those of an earlier call.
            self.model.model.rope_deltas = None
            if positions is None:
                past = cache.get_seq_length() if cache is not None else 0
                positions = torch.arange(past, past + rows.shape[1], device=rows.device).expand(len(rows), -1)
            positions = positions.expand(3, *positions.shape)
        if positions is not None:
            arguments["position_ids"] = positions
        if cache is not None:
            arguments["past_key_values"] = cache
        # For rows of states that are not contiguous, torch would copy frozen weights of the output layer for each row.
        with self._to_output(lambda states: states[:, -keep:].contiguous()) if keep else nullcontext():
            logits = model(inputs_embeds=rows, attention_mask=mask, use_cache=cache is not None, **arguments).logits
        return logits if self.scale == 1 else logits / self.scale

    def logits_at(
        self,
        rows: torch.Tensor,
        places: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor | None = None,
        cache: Cache | None = None,
        *,
        through: torch.nn.Module | None = None,
    ) -> torch.Tensor:
        """Logits `[places, vocabulary]` at some places, (row, column) in `[2, places]`; the rest is as in `forward`.

        No other place reaches the output layer, which for a large vocabulary would take much of the time and most of
        the memory.
        """
        with self._to_output(lambda states: states[tuple(places)][None]):
            return self.forward(rows, mask, positions, cache, through=through)[0]

    @contextmanager
    def _to_output(self, select: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Let the layer that outputs logits see what `select` returns of the decoder's states."""
        # Some families only know the output layer of their LLM.
        models = (module for module in self.model.modules() if isinstance(module, PreTrainedModel))
        layer = next(layer for model in models if (layer := model.get_output_embeddings()) is not None)
        hook = layer.register_forward_pre_hook(lambda _, inputs: (select(inputs[0]), *inputs[1:]))
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Use attention without torch's fused kernels while the decoder is trained on a CPU.

        The kernels are slower there, especially in the backward pass in bf16. The logits differ by rounding alone.
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
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)  # "</s>" is text here
        return [*ids, self.ends[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """The transcript within generated token ids, without special tokens and the format of the family."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return family_of(self.model.config).transcript(text)

    @torch.no_grad()
    def audio_embeddings(self, samples: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Audio embeddings `[slots, hidden]` of each recording. samples: mono, float32, 16 kHz."""
        return self.audio_embeddings_with_gradient(samples)

    def audio_embeddings_with_gradient(self, samples: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """As `audio_embeddings`, with the gradient, to train encoder and projector."""
        if self.processor is None:
            return self.model.project(*self.frames(samples))
        # One recording at a time: padding changes the output of some encoders.
        return [self._processor_embeddings(row) for row in samples]

    def frames(
        self, samples: Sequence[np.ndarray], to_inputs: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder frames of recordings and their counts, as `CtcEncoder.frames`; for composed models only.

        to_inputs: (encoder, samples, lengths) -> the encoder's input and its mask; None: `CtcEncoder.inputs`.
        """
        encoder = self.model.encoder
        with torch.autocast(self.device.type, enabled=False):
            inputs = (to_inputs or CtcEncoder.inputs)(encoder, *(x.to(self.device) for x in pad(samples)))
        return encoder.frames(*inputs)

    def _processor_embeddings(self, samples: np.ndarray) -> torch.Tensor:
        """Audio embeddings of one recording, for models with a processor. Raises `ModelError` for another prompt."""
        family = family_of(self.model.config)
        request = Request(resampled(samples, SAMPLE_RATE, sampling_rate(self.processor)), self.language, self.name)
        inputs = family.request(self.processor, request).to(self.device, self.model.dtype)
        ids = inputs["input_ids"][0].tolist()
        before, after = self.processor_prompt
        first, end = len(before), len(ids) - len(after)
        if (ids[:first], ids[end:]) != (before, after):
            problem = f"its processor writes another prompt for these {len(samples) / SAMPLE_RATE:g} s than for silence"
            raise ModelError(f"{self.name}: {problem}; cut the recording into shorter ones")
        return merged_embeddings(self.model, inputs, family)[0, first:end]

    @torch.no_grad()
    def ctc_paths(
        self, samples: Sequence[np.ndarray], to_inputs: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
    ) -> tuple[list[str], list[torch.Tensor]]:
        """CTC path (`greedy_paths`) of each recording, and its audio embedding for each stack of frames.

        to_inputs: as in `frames`.
        """
        frames, lengths = self.frames(samples, to_inputs)
        return greedy_paths(self.model.encoder, frames, lengths), self.model.stacks(frames, lengths)

    @torch.no_grad()
    def first_pass(self, samples: Sequence[np.ndarray]) -> list[str]:
        """The encoder's own transcript of each recording; for encoders that transcribe."""
        return [self.tokenizer.decode(ids).strip() for ids in self.model.first_pass(*self.frames(samples))]

    def prompt(self, slot: torch.Tensor | None, names: Sequence[str] = ()) -> torch.Tensor:
        """Rows `[length, width]` of the prompt with the embeddings `slot` (`[slots, hidden]`) in it.

        slot: None: no prompt, only its first token (the beginning of sentence), as for text alone. names: those that
        the prompt lists: where the family has its place for them, or before the slot if the prompt is the toolkit's.
        Raises `ModelError` for a family whose prompt has no room for names.
        """
        if slot is None:
            return self.embed(self.before[:1])
        before, after = self.around_slot(names)
        return torch.cat([before, self.rows_of_embeddings(slot), after])

    def around_slot(self, names: Sequence[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows `[length, width]` of the prompt before and after the slot. names: as in `prompt`."""
        ids = self.before, self.after
        if names and self.processor is not None and self.learned is None:
            ids = self._ids_with_names(tuple(names))
        before, after = self.learned.rows(self) if self.learned else map(self.embed, ids)
        if names and (self.processor is None or self.learned):
            listed = self.tokenizer.encode(f"{', '.join(names)}: ", add_special_tokens=False, split_special_tokens=True)
            before = torch.cat([before, self.embed(listed)])
        return before, after

    def _ids_with_names(self, names: tuple[str, ...]) -> tuple[list[int], list[int]]:
        """The processor's token ids before and after the slot, with names in its prompt."""
        family = family_of(self.model.config)
        if family.names is None:
            raise ModelError(f"{self.name}: its prompt has no room for names; boost them instead (--names boost)")

        def add(request: Request) -> Request:
            return family.names(self.processor, request, names)

        token = audio_token_id(self.model.config)
        return ids_around_slot(self.processor, family.request, token, self.language, self.name, add)

    def rows_of_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Rows `[length, width]` of embeddings `[length, hidden]` that belong to no token, such as audio embeddings."""
        embeddings = embeddings.to(self.device, self.model.dtype)
        if not self._per_layer:
            return embeddings
        # In families with further inputs for each token, audio has those of the padding token.
        padding = self.model.config.get_text_config(decoder=True).pad_token_id or 0
        return torch.cat([embeddings, self.embed([padding] * len(embeddings))[:, self.hidden :]], -1)

    def prompt_without_audio(self) -> torch.Tensor:
        """Rows `[length, width]` of the prompt with an empty slot, after which the decoder is its internal LM."""
        return self.prompt(self.empty_slot)


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of `labels [tokens]`, of which some may be IGNORED, for `logits [tokens, vocabulary]`."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
