"""The prompt around the slot, made of text, of learnable tokens, and of text whose embeddings go through a projector.

The prompt projector is that of Burdisso et al. 2026 (2601.20898): three linear layers with ReLU over the embeddings of
the prompt's own text. `residual` adds what it says to those embeddings, and begins by saying nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from adapt.errors import ModelError
from adapt.model import soft_prompt
from adapt.text.template import CHAT, CHAT_MARK, LEARNED, SPEECH, TEXT, Segment, parse, written

if TYPE_CHECKING:
    from adapt.model.speech_llm import SpeechLLM

FILE = "learned_prompt.safetensors"  # in the folder of an adapter, or of a base, that it belongs to


def _beginning(segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning of sentence, where the tokenizer has one and neither a segment nor a chat template writes it."""
    mark = tokenizer.bos_token
    if mark is None or any(mark in segment.text or segment.kind == CHAT for segment in segments):
        return []
    return [tokenizer.bos_token_id]


def in_chat(segments: Sequence[Segment], speech_llm: SpeechLLM) -> list[Segment]:
    """The segments with what the chat template writes around them, in place of a CHAT."""
    if segments[0].kind != CHAT:
        return list(segments)
    slot = next(i for i, segment in enumerate(segments) if segment.kind == SPEECH)
    said = (segments[1:slot], segments[slot + 1 :])
    # Words stand in for the segments, each of which is tokenised by itself.
    marks = [mark if some else "" for mark, some in zip(("adaptbefore", "adaptbehind"), said, strict=True)]
    found = []
    around = speech_llm.chat(*marks)
    for text, mark, other, some in zip(around, marks, marks[::-1], said, strict=True):
        if (mark and text.count(mark) != 1) or (other and other in text):
            where = "before" if mark == marks[0] else "behind"
            told = f"its chat template does not keep what a user says {where} the audio there"
            raise ModelError(f"{speech_llm.name}: {told}; write the prompt without {CHAT_MARK}")
        first, _, last = text.partition(mark) if mark else (text, "", "")
        found.append([Segment(TEXT, first), *some, Segment(TEXT, last)])
    return [segment for segment in [*found[0], segments[slot], *found[1]] if segment != Segment(TEXT)]


def ids_around(segments: Sequence[Segment], speech_llm: SpeechLLM) -> tuple[list[int], list[int]]:
    """Token ids before and behind the slot, each segment tokenised by itself; learnable tokens as their text."""
    ids, place, tokenizer = ([], []), 0, speech_llm.tokenizer
    ids[0].extend(_beginning(segments, tokenizer))
    for segment in in_chat(segments, speech_llm):
        place += segment.kind == SPEECH
        if segment.text:
            ids[place].extend(tokenizer.encode(segment.text, add_special_tokens=False))
    return ids


class Mlp(nn.Module):
    """Three linear layers, ReLU between them, all of them as wide as the embeddings."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers(rows)


class Residual(nn.Module):
    """The embeddings and what a bottleneck adds to them: nothing at first."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + self.up(self.down(rows).relu())


class LearnedPrompt(nn.Module):
    """What stands around the slot in place of the base's own prompt.

    template: `text.template`. method: `tokens` learns the `<p:...>` of the template as free vectors; `mlp` and
    `residual` learn a projector for those with a text, or, where the template has none, for all its text. init: what
    tokens without a text begin as, as in `soft_prompt.initial`. size: hidden width of the projector; None: that of the
    embeddings for `mlp`, a quarter of it for `residual`.
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
        self._segments = segments = in_chat(segments, speech_llm)
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

    def _learned(self, i: int, speech_llm: SpeechLLM) -> torch.Tensor:
        """Vectors `[n, hidden]` of a learned segment."""
        if str(i) in self.vectors:
            return self.vectors[str(i)]
        rows = speech_llm.embed(self._ids[i]).detach()[:, : speech_llm.hidden].float()
        return self.projector(rows)

    def rows(self, speech_llm: SpeechLLM) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows `[length, width]` before and behind the slot."""
        found, place = ([speech_llm.embed(self._beginning)], [speech_llm.embed([])]), 0
        for i, segment in enumerate(self._segments):
            place += segment.kind == SPEECH
            if segment.kind == TEXT:
                found[place].append(speech_llm.embed(self._ids[i]))
            elif segment.kind == LEARNED:
                rows = speech_llm.in_slot(self._learned(i, speech_llm))
                if self._ids[i]:  # what each token has of its own in every layer stays that of the text
                    rows = torch.cat(
                        [rows[:, : speech_llm.hidden], speech_llm.embed(self._ids[i])[:, speech_llm.hidden :]], 1
                    )
                found[place].append(rows)
        return torch.cat(found[0]), torch.cat(found[1])

    def save(self, path: Path, speech_llm: SpeechLLM) -> None:
        """Write its weights, and under `soft_prompt` the vectors that they come to, end to end."""
        state = {f"state.{key}": value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        learned = [i for i, segment in enumerate(self._segments) if segment.kind == LEARNED]
        vectors = torch.cat([self._learned(i, speech_llm) for i in learned]).detach().cpu().contiguous()
        about = {"template": self.template, "method": self.method, "size": self.size}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({**state, "soft_prompt": vectors}, path, {"adapt": json.dumps(about)})


def load_learned_prompt(path: Path, speech_llm: SpeechLLM, template: str | None = None) -> LearnedPrompt:
    """What `LearnedPrompt.save` wrote; a projector can be put on another template.

    Raises `ModelError` for another kind of file, another width, and for tokens on another template.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("adapt", "{}"))
            keys = [key for key in file.keys() if key.startswith("state.")]  # noqa: SIM118 (no dictionary)
            state = {key.removeprefix("state."): file.get_tensor(key) for key in keys}
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; `adapt project` writes one") from None
    if not about:
        raise ModelError(f"{path}: a soft prompt alone, not a learned prompt; `adapt project` writes one")
    if (
        template is not None
        and written(parse(template)) != written(parse(about["template"]))
        and about["method"] == "tokens"
    ):
        raise ModelError(f"{path}: learned as tokens of {about['template']!r}; only a projector takes another template")
    learned = LearnedPrompt(
        speech_llm, template or about["template"], about["method"], init="random", size=about["size"]
    )
    try:
        learned.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{path}: does not fit {speech_llm.name}: {reason}; learn it again") from None
    return learned


def with_template(speech_llm: SpeechLLM, template: str) -> SpeechLLM:
    """The same model behind another prompt; its learnable tokens are the text that they would begin as."""
    before, after = ids_around(parse(template), speech_llm)
    return dataclasses.replace(speech_llm, before=before, after=after, learned=None)


def with_learned(speech_llm: SpeechLLM, learned: LearnedPrompt) -> SpeechLLM:
    """The same model behind a learned prompt."""
    before, after = ids_around(parse(learned.template), speech_llm)
    return dataclasses.replace(speech_llm, before=before, after=after, learned=learned)
