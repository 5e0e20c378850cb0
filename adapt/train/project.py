"""Train on paired audio: a learned prompt around the slot, and the parts of the model that are not frozen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from adapt.errors import ModelError
from adapt.model import adapter
from adapt.model.features import SAMPLE_RATE, pad
from adapt.model.learned_prompt import LearnedPrompt, with_learned
from adapt.model.packing import target_logits
from adapt.model.parts import audio_parameters
from adapt.model.save import save_speech_llm, saved_dtype
from adapt.model.soft_prompt import SLOT_EXAMPLES, save_slot_examples
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.recipe.domain import Decoder, Project
from adapt.train.common import EXAMPLES, PairedAudio, TrainingResult, best_row, by_length, draw, mean_loss
from adapt.train.ctc import ctc_loss
from adapt.train.fit import fit, uses_bf16
from adapt.train.perturb import perturb_audio

AUDIO_PARTS = ("encoder", "projector")
CTC_WEIGHT = 0.3  # of the encoder's CTC loss while the encoder is trained


class _Trained(torch.nn.Module):
    """The trained parameters alone, so that checkpoints contain nothing else."""

    def __init__(self, learned: LearnedPrompt | None, weights: Sequence[torch.nn.Parameter]):
        super().__init__()
        self.learned, self.weights = learned, torch.nn.ParameterList(weights)


def learn_from_pairs(
    speech_llm: SpeechLLM,
    learned: LearnedPrompt | None,
    train: PairedAudio,
    dev: PairedAudio,
    settings: Project,
    *,
    folder: Path,
    out: Path,
    seed: int,
    precision: str,
    parts: Sequence[str] = (),
    rank: int = Decoder.rank,
    alpha: int = Decoder.alpha,
) -> TrainingResult:
    """Train a learned prompt, and the `parts` `encoder`, `projector` and `llm` (by LoRA), on paired audio.

    learned: None: no prompt, only `parts`. The weights with the lowest loss on `dev` are kept. Without `parts`, the
    model does not change, and `out` is the file of the prompt. With `parts`, `out` is the folder of a model with the
    trained weights, LoRA merged and the prompt included. To train encoder or projector, `train` and `dev` need samples,
    which are perturbed in `train`; a CTC head is trained with its encoder if `train` has letters. folder: for
    checkpoints. precision: auto, fp32 or bf16. rank, alpha: of LoRA. Raises `ModelError` as `trainable_audio_weights`
    does.
    """
    trains_audio = any(part in AUDIO_PARTS for part in parts)
    audio_weights = trainable_audio_weights(speech_llm, parts)
    lora = adapter.add_lora(speech_llm, rank, alpha, 0.0) if "llm" in parts else None
    weights = _trained_weights(speech_llm, audio_weights, lora is not None)
    trained = _Trained(learned, weights)
    prompted = with_learned(speech_llm, learned) if learned else speech_llm
    embeddings_of = _embeddings(speech_llm, train, trains_audio, trains_ctc="encoder" in parts and bool(train.letters))

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        indices = batch["rows"].tolist()
        embeddings, ctc = embeddings_of(indices, batch["noise"])
        return token_loss(*target_logits(prompted, embeddings, [train.targets[i] for i in indices])) + ctc

    best = folder / "best.pt"
    with speech_llm.plain_attention():
        log = fit(
            trained,
            _batches(train.samples if trains_audio else train.embeddings, settings.batch_size, seed),
            loss_of,
            steps=settings.steps,
            groups=_groups(learned, weights, settings),
            warmup=min(20, settings.steps // 5),
            folder=folder,
            save_every=min(settings.eval_every, settings.steps),
            evaluate=_evaluation(speech_llm, prompted, trained, dev, best, trains_audio),
            label="project",
            seed=seed,
            bf16=uses_bf16(precision, speech_llm.device),
        )
    trained.load_state_dict(torch.load(best, weights_only=True))
    if parts:
        _save_model(speech_llm, prompted, lora, dev.samples if trains_audio else (), out)
    else:
        learned.save(out, speech_llm)
    return TrainingResult(log, best_row(log)["step"])


def _save_model(
    speech_llm: SpeechLLM, prompted: SpeechLLM, lora: PeftModel | None, samples: Sequence[np.ndarray], out: Path
) -> None:
    """Merge the LoRA and write the model `prompted`.

    samples: recordings whose audio embeddings replace the slot examples of the base, if it has any; () for none.
    """
    if lora:
        lora.merge_and_unload()
    save_speech_llm(prompted, out)
    if samples and (out / SLOT_EXAMPLES).exists():
        save_slot_examples(out / SLOT_EXAMPLES, speech_llm.audio_embeddings(samples[:EXAMPLES]))


def trainable_audio_weights(speech_llm: SpeechLLM, parts: Sequence[str]) -> list[torch.nn.Parameter]:
    """The parameters of encoder and projector, if they are in `parts`, without those that the model itself keeps fixed.

    Raises `ModelError` for parts that the model does not have, has in a coarser data type than float32, or runs without
    a gradient, and for a model that could not be saved.
    """
    if parts:
        saved_dtype(speech_llm)  # raises for a model that could not be saved
    audio_weights, silence = [], [np.zeros(SAMPLE_RATE, np.float32)]
    for part in (part for part in AUDIO_PARTS if part in parts):
        weights = [p for p in audio_parameters(speech_llm.model, part) if p.requires_grad]
        if coarse := next((p.dtype for p in weights if p.dtype != torch.float32), None):
            raise ModelError(f"{part}: {coarse} is too coarse to train; load the model with dtype: fp32")
        output = speech_llm.audio_embeddings_with_gradient(silence)[0].sum()
        grads = torch.autograd.grad(output, weights, allow_unused=True) if output.requires_grad else ()
        if all(grad is None for grad in grads):
            kind = speech_llm.model.config.model_type
            raise ModelError(f"{part}: a {kind!r} model runs it without a gradient; keep it frozen")
        audio_weights += weights
    return audio_weights


def _trained_weights(
    speech_llm: SpeechLLM, audio_weights: list[torch.nn.Parameter], has_lora: bool
) -> list[torch.nn.Parameter]:
    """The parameters of the model to train: LoRA and `audio_weights`. All others are frozen."""
    if not has_lora:  # add_lora has frozen them otherwise
        speech_llm.model.requires_grad_(False)
    speech_llm.model.eval()
    weights = [p for p in speech_llm.model.parameters() if p.requires_grad]
    for parameter in audio_weights:
        parameter.requires_grad_(True)
    return weights + audio_weights


def _groups(learned: LearnedPrompt | None, weights: list[torch.nn.Parameter], settings: Project) -> list[dict]:
    """Parameter groups of the optimiser, with their learning rates."""
    groups = [{"params": list(learned.parameters()), "lr": settings.learning_rate}] if learned else []
    return groups + ([{"params": weights, "lr": settings.weights_rate}] if weights else [])


def _batches(rows: Sequence[Sequence], batch_size: int, seed: int) -> Callable[[int], dict]:
    """The function that returns a batch: indices of rows of similar length, and a seed of the perturbation."""
    ordered = by_length(rows)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        drawn = draw(rng, ordered, batch_size, rng.random())
        return {"rows": torch.tensor(drawn), "noise": rng.randrange(2**31)}

    return batch_of


def _embeddings(
    speech_llm: SpeechLLM, train: PairedAudio, trains_audio: bool, trains_ctc: bool
) -> Callable[[Sequence[int], int], tuple[list[torch.Tensor], torch.Tensor | float]]:
    """The function that returns the audio embeddings `[slots, hidden]` of utterances, and the weighted CTC loss or 0.

    It takes their indices and the seed of the perturbation.
    """

    def embeddings_of(indices: Sequence[int], seed: int) -> tuple[list[torch.Tensor], torch.Tensor | float]:
        if not trains_audio:
            return [train.embeddings[i] for i in indices], 0.0
        samples = _perturbed([train.samples[i] for i in indices], seed)
        if not trains_ctc:
            return speech_llm.audio_embeddings_with_gradient(samples), 0.0
        # Without the CTC loss, the CTC head would no longer fit its encoder.
        encoder = speech_llm.model.encoder
        frames, counts = speech_llm.frames(samples)
        embeddings, blank = speech_llm.model.project(frames, counts), len(encoder.config.alphabet)
        loss = ctc_loss(encoder.ctc(frames), counts, [train.letters[i] for i in indices], blank)
        return embeddings, CTC_WEIGHT * loss

    return embeddings_of


def _perturbed(samples: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """The perturbed samples of recordings, as `perturb_audio` changes them."""
    audio, lengths = perturb_audio(*pad(samples), torch.Generator().manual_seed(seed))
    return [row[:n].numpy() for row, n in zip(audio, lengths.tolist(), strict=True)]


def _evaluation(
    speech_llm: SpeechLLM, prompted: SpeechLLM, trained: _Trained, dev: PairedAudio, best: Path, trains_audio: bool
) -> Callable[[int, list[dict]], dict]:
    """The evaluation: the loss on `dev` of the model with its learned prompt; saves the best weights to `best`."""

    def evaluate(step: int, log: list[dict]) -> dict:
        embeddings = dev.embeddings
        if trains_audio:
            batches = (dev.samples[i : i + 16] for i in range(0, len(dev.samples), 16))
            embeddings = [row for batch in batches for row in speech_llm.audio_embeddings(batch)]
        row = {"step": step, "dev_loss": mean_loss(prompted, embeddings, dev.targets)}
        if best_row([*log, row]) is row:
            torch.save(trained.state_dict(), best)
        return row

    return evaluate
