"""`adapt inspect`: what the vectors of a soft prompt are, beside audio embeddings and token embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import RecipeError
from adapt.run import write_json
from adapt.stages import plan
from adapt.stages.context import Run

if TYPE_CHECKING:
    import torch

RECORDINGS = 100  # of source audio, at most
TOKENS = 3  # nearest tokens of a vector
DRAWN = 400  # points of audio and of tokens in the picture, at most


@dataclass(frozen=True)
class Vector:
    """A vector of the soft prompt.

    tokens: the nearest token embeddings by cosine, as (token, cosine). audio: the cosine of the nearest audio
    embedding; `said` is its transcript, and `word` the word at the same share of it.
    """

    norm: float
    tokens: list[tuple[str, float]]
    audio: float
    word: str
    said: str


@dataclass(frozen=True)
class Inspection:
    """The vectors, and mean norm and mean cosine to the nearest neighbour by kind: soft prompt, audio and tokens.

    An audio embedding's neighbours are those of other recordings.
    """

    vectors: list[Vector]
    norms: dict[str, float]
    nearest: dict[str, dict[str, float]]

    def to_json(self) -> dict:
        """`{"vectors": […], "norms": {…}, "nearest": {…}}`."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """A line for each vector, then norms and cosines by kind."""
        lines = [f"{'vector':>6}{'norm':>8}  {'nearest tokens (cosine)':<48}{'nearest audio (cosine)'}"]
        for number, v in enumerate(self.vectors):
            tokens = ", ".join(f"{token!r} {cosine:.2f}" for token, cosine in v.tokens)
            lines.append(f"{number:>6}{v.norm:>8.2f}  {tokens:<48}{v.word!r} {v.audio:.2f}, in {v.said!r}")
        lines += ["", f"{'':<12}{'mean norm':>10}{'cosine to audio':>18}{'to tokens':>12}"]
        for kind, norm in self.norms.items():
            lines.append(
                f"{kind:<12}{norm:>10.2f}{self.nearest[kind]['audio']:>18.2f}{self.nearest[kind]['tokens']:>12.2f}"
            )
        return "\n".join(lines)


def inspect(run: Run) -> Inspection:
    """Compare the soft prompt of a run with audio of `data.source_replay` or else `data.dev`, and with all tokens.

    Writes `prompt/inspect.json` and `prompt/inspect.png`. Raises RecipeError without such audio.
    """
    from adapt.model.soft_prompt import load_soft_prompt

    recipe, speech_llm = run.recipe, run.prompted(run.speech_llm(run.start))
    key = "source_replay" if recipe.data.source_replay else "dev"
    if not getattr(recipe.data, key):
        raise RecipeError("recipe.yaml: data.source_replay: missing; name a manifest of audio to compare with")
    soft_prompt = load_soft_prompt(run.path(plan.SOFT_PROMPT), speech_llm).float()
    utterances = run.recordings(key)[:RECORDINGS]
    embeddings = [rows.float() for rows in run.audio_embeddings(utterances, speech_llm)]
    ids = range(min(len(speech_llm.tokenizer), speech_llm.vocabulary))
    tokens = speech_llm.embed(ids)[:, : speech_llm.hidden].detach().float()
    found = _compared(soft_prompt, embeddings, [u.text for u in utterances], tokens, speech_llm.tokenizer)
    write_json(run.path("prompt/inspect.json"), found.to_json())
    _plot(soft_prompt, embeddings, tokens, run.path("prompt/inspect.png"))
    return found


def _compared(
    soft_prompt: torch.Tensor,
    embeddings: Sequence[torch.Tensor],
    texts: Sequence[str],
    tokens: torch.Tensor,
    tokenizer,
) -> Inspection:
    """Compare vectors `[length, hidden]` with audio embeddings of recordings with these texts, and with tokens."""
    import torch
    from torch.nn.functional import normalize

    audio = torch.cat(list(embeddings))
    owner = torch.cat([torch.full((len(rows),), i) for i, rows in enumerate(embeddings)])
    place = torch.cat([torch.arange(len(rows)) / max(1, len(rows)) for rows in embeddings])
    to_audio, to_tokens = (normalize(soft_prompt) @ normalize(others).T for others in (audio, tokens))
    vectors = []
    for row, (near_audio, near_tokens) in enumerate(zip(to_audio, to_tokens, strict=True)):
        cosine, index = near_audio.max(0)
        said = texts[owner[index]]
        words = said.split() or [""]
        top = near_tokens.topk(min(TOKENS, len(tokens)))
        names = tokenizer.convert_ids_to_tokens(top.indices.tolist())
        named = list(zip(names, top.values.tolist(), strict=True))
        word = words[int(place[index] * len(words))]
        vectors.append(Vector(soft_prompt[row].norm().item(), named, cosine.item(), word, said))
    kinds = {"soft prompt": soft_prompt, "audio": audio, "tokens": tokens}
    other = owner[:, None] != owner[None]
    between = (normalize(audio) @ normalize(audio).T).masked_fill(~other, -1.0)
    nearest = {
        "soft prompt": {"audio": to_audio.amax(1).mean().item(), "tokens": to_tokens.amax(1).mean().item()},
        "audio": {
            "audio": between.amax(1).mean().item(),
            "tokens": (normalize(audio) @ normalize(tokens).T).amax(1).mean().item(),
        },
        "tokens": {
            "audio": (normalize(tokens) @ normalize(audio).T).amax(1).mean().item(),
            "tokens": _mean_nearest(tokens),
        },
    }
    return Inspection(vectors, {name: rows.norm(dim=1).mean().item() for name, rows in kinds.items()}, nearest)


def _mean_nearest(rows: torch.Tensor) -> float:
    """The mean cosine of some of the rows to the nearest other row."""
    import torch
    from torch.nn.functional import normalize

    drawn = torch.linspace(0, len(rows) - 1, min(len(rows), DRAWN)).long()
    cosines = normalize(rows[drawn]) @ normalize(rows).T
    cosines[torch.arange(len(drawn)), drawn] = -1.0
    return cosines.amax(1).mean().item()


def _plot(soft_prompt: torch.Tensor, embeddings: Sequence[torch.Tensor], tokens: torch.Tensor, out: Path) -> None:
    """Draw all vectors on the two main directions of audio and tokens."""
    import torch
    from matplotlib.figure import Figure

    audio = torch.cat(list(embeddings))
    audio, tokens = (r[torch.linspace(0, len(r) - 1, min(len(r), DRAWN)).long()] for r in (audio, tokens))
    centre = torch.cat([audio, tokens]).mean(0)
    _, _, directions = torch.pca_lowrank(torch.cat([audio, tokens]) - centre, q=2, center=False)
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, rows, size in (("tokens", tokens, 6), ("audio", audio, 6), ("soft prompt", soft_prompt, 30)):
        points = ((rows - centre) @ directions).cpu()
        axis.scatter(points[:, 0], points[:, 1], s=size, label=name)
    axis.set_xlabel("first main direction")
    axis.set_ylabel("second main direction")
    axis.legend()
    figure.savefig(out, dpi=120)
