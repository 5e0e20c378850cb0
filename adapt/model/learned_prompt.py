"""The learned prompt around the slot: text, learnable tokens, and text whose embeddings a prompt projector maps.

The prompt projector is that of Burdisso et al. 2026 (2601.20898): three linear layers with ReLU over the embeddings of
the prompt's text. The `residual` projector adds its output to those embeddings; its output is zero at first.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from adapt.errors import ModelError
from adapt.model import soft_prompt
from adapt.model.speech_llm import SpeechLLM
from adapt.text.template import CHAT, CHAT_MARK, LEARNED, SPEECH, TEXT, Segment, parse, written

FILE = "learned_prompt.safetensors"  # in the folder of the adapter or base that it belongs to
USER_MARKS = ("adaptbefore", "adaptbehind")  # placeholders of the segments before and after the slot


def _beginning(segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sentence token; empty if the tokenizer has none, or if text or chat template writes it."""
    mark = tokenizer.bos_token
    if mark is None or any(mark in segment.text or segment.kind == CHAT for segment in segments):
        return []
    return [tokenizer.bos_token_id]


def expand_chat(segments: Sequence[Segment], speech_llm: SpeechLLM) -> list[Segment]:
    """The segments with the text of the chat template around them, in place of a CHAT.

    Raises `ModelError` for a chat template that changes the user's text, or takes no audio.
    """
    if segments[0].kind != CHAT:
        return list(segments)
    slot = next(i for i, segment in enumerate(segments) if segment.kind == SPEECH)
    sides = (segments[1:slot], segments[slot + 1 :])
    # Each segment is tokenised by itself, so the chat template is applied to placeholders.
    marks = [mark if side else "" for mark, side in zip(USER_MARKS, sides, strict=True)]
    expanded = []
    chat = speech_llm.chat(*marks)
    for position, text, mark, other, side in zip(("before", "after"), chat, marks, marks[::-1], sides, strict=True):
        if (mark and text.count(mark) != 1) or (other and other in text):
            problem = f"its chat template does not keep what the user says {position} the audio in its place"
            raise ModelError(f"{speech_llm.name}: {problem}; write the prompt without {CHAT_MARK}")
        first, _, last = text.partition(mark) if mark else (text, "", "")
        expanded.append([Segment(TEXT, first), *side, Segment(TEXT, last)])
    return [segment for segment in [*expanded[0], segments[slot], *expanded[1]] if segment != Segment(TEXT)]


def ids_around(segments: Sequence[Segment], speech_llm: SpeechLLM) -> tuple[list[int], list[int]]:
    """Token ids before and after the slot, each segment tokenised by itself; learnable tokens by their text."""
    ids, side, tokenizer = ([], []), 0, speech_llm.tokenizer
    ids[0].extend(_beginning(segments, tokenizer))
    for segment in expand_chat(segments, speech_llm):
        side += segment.kind == SPEECH
        if segment.text:
            ids[side].extend(tokenizer.encode(segment.text, add_special_tokens=False))
    return ids


class Mlp(nn.Module):
    """Prompt projector: three linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`[n, width]` -> `[n, width]`."""
        return self.layers(embeddings)


class Residual(nn.Module):
    """Prompt projector: the embeddings plus the output of a bottleneck, which is zero at first."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`[n, width]` -> `[n, width]`."""
        return embeddings + self.up(self.down(embeddings).relu())


class LearnedPrompt(nn.Module):
    """The prompt around the slot that replaces the base's own prompt.

    template: see `text.template`. method: `tokens` learns the `<p:...>` of the template as free vectors; `mlp` and
    `residual` learn a projector of the `<p:...>` that have a text, or of all the text if the template has no
    `<p:...>`. init: the initial value of tokens without a text, as in `soft_prompt.initial`. size: hidden width of the
    projector; None: the width of the embeddings for `mlp`, a quarter of it for `residual`. examples: audio embeddings
    `[slots, hidden]` for `init`. Raises `ModelError` for a template in which the method can learn nothing.
    """

    def __init__(
        self,
        speech_llm: SpeechLLM,
        template: str,
        method: str,
        *,
        init: str = "text",
        size: int | None = None,
        examples: Sequence[torch.Tensor] = (),
    ):
        super().__init__()
        self.template, self.method, self.size = template, method, size
        segments = parse(template)
        tokenizer = speech_llm.tokenizer
        if method != "tokens" and not any(s.kind == LEARNED for s in segments):
            segments = [dataclasses.replace(s, kind=LEARNED) if s.kind == TEXT else s for s in segments]
        self._beginning = _beginning(segments, tokenizer)
        self._segments = segments = expand_chat(segments, speech_llm)
        self._ids = [tokenizer.encode(s.text, add_special_tokens=False) if s.text else [] for s in segments]
        width, self.vectors = speech_llm.hidden, nn.ParameterDict()
        for i, (segment, ids) in enumerate(zip(segments, self._ids, strict=True)):
            if segment.kind == LEARNED and (segment.count or method == "tokens"):
                start = soft_prompt.initial(init, segment.count, examples, speech_llm) if segment.count else None
                start = speech_llm.embed(ids)[:, :width].detach() if start is None else start
                self.vectors[str(i)] = nn.Parameter(start.float().clone())
        hidden = size or (width if method == "mlp" else max(1, width // 4))
        self.projector = {"mlp": Mlp, "residual": Residual, "tokens": lambda *_: None}[method](width, hidden)
        self.to(speech_llm.device)
        if not any(s.kind == LEARNED and (s.text or method == "tokens") for s in segments):
            raise ModelError(f"prompt template {template!r}: has nothing to learn by {method!r}; write <p:...> into it")

    def _learned_vectors(self, i: int, speech_llm: SpeechLLM) -> torch.Tensor:
        """Vectors `[n, hidden]` of segment `i`, which is learned."""
        if str(i) in self.vectors:
            return self.vectors[str(i)]
        embeddings = speech_llm.embed(self._ids[i]).detach()[:, : speech_llm.hidden].float()
        return self.projector(embeddings)

    def rows(self, speech_llm: SpeechLLM) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows `[length, width]` before and after the slot."""
        sides, side = ([speech_llm.embed(self._beginning)], [speech_llm.embed([])]), 0
        for i, segment in enumerate(self._segments):
            side += segment.kind == SPEECH
            if segment.kind == TEXT:
                sides[side].append(speech_llm.embed(self._ids[i]))
            elif segment.kind == LEARNED:
                rows = speech_llm.rows_of_embeddings(self._learned_vectors(i, speech_llm))
                if self._ids[i]:  # the further inputs of the layers stay those of the text
                    rows = torch.cat(
                        [rows[:, : speech_llm.hidden], speech_llm.embed(self._ids[i])[:, speech_llm.hidden :]], 1
                    )
                sides[side].append(rows)
        return torch.cat(sides[0]), torch.cat(sides[1])

    def save(self, path: Path, speech_llm: SpeechLLM) -> None:
        """Write the weights and, under `soft_prompt`, the learned vectors `[n, hidden]`, one segment after another."""
        state = {f"state.{key}": value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        learned = [i for i, segment in enumerate(self._segments) if segment.kind == LEARNED]
        vectors = torch.cat([self._learned_vectors(i, speech_llm) for i in learned]).detach().cpu().contiguous()
        metadata = {"template": self.template, "method": self.method, "size": self.size}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({**state, "soft_prompt": vectors}, path, {"adapt": json.dumps(metadata)})


def load_learned_prompt(path: Path, speech_llm: SpeechLLM, template: str | None = None) -> LearnedPrompt:
    """The prompt that `LearnedPrompt.save` wrote.

    template: another template, for projectors only; None: the template of the training. Raises
    `ModelError` for another kind of file, for another width, and for tokens with another template.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("adapt", "{}"))
            keys = [key for key in file.keys() if key.startswith("state.")]  # noqa: SIM118 (no dictionary)
            state = {key.removeprefix("state."): file.get_tensor(key) for key in keys}
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; `adapt project` writes one") from None
    if not metadata:
        raise ModelError(f"{path}: a soft prompt alone, not a learned prompt; `adapt project` writes one")
    method, saved_template = metadata["method"], metadata["template"]
    if template is not None and method == "tokens" and written(parse(template)) != written(parse(saved_template)):
        raise ModelError(f"{path}: learned as tokens of {saved_template!r}; only a projector takes another template")
    learned = LearnedPrompt(speech_llm, template or saved_template, method, init="random", size=metadata["size"])
    try:
        learned.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{path}: does not fit {speech_llm.name}: {reason}; learn it again") from None
    return learned


def with_template(speech_llm: SpeechLLM, template: str) -> SpeechLLM:
    """The same model with the prompt of a template; learnable tokens are replaced by their text."""
    before, after = ids_around(parse(template), speech_llm)
    return dataclasses.replace(speech_llm, before=before, after=after, learned=None)


def with_learned(speech_llm: SpeechLLM, learned: LearnedPrompt) -> SpeechLLM:
    """The same model with a learned prompt."""
    before, after = ids_around(parse(learned.template), speech_llm)
    return dataclasses.replace(speech_llm, before=before, after=after, learned=learned)
