"""One training loop for every stage: transformers' Trainer over batches that are a function of the step alone.

Because batch `i` depends on `i` alone, a killed training that resumes from its last checkpoint has the same result.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from adapt.errors import TrainingError
from adapt.model.load import computes_in_bf16
from adapt.ranks import launched

EXPLODED = 3.0  # factor of the first loss, or of 1 nat if that is larger, above which a loss has exploded


class _Batches(torch.utils.data.Dataset):
    """The batches as a dataset, one item for each step."""

    def __init__(self, batch_of: Callable[[int], dict], steps: int):
        self.batch_of, self.steps = batch_of, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict:
        return self.batch_of(step)


class _Arguments(TrainingArguments):
    """Arguments that keep Trainer from moving the model and from splitting batches."""

    place_model_on_device = False  # it is there already, with parameters that Trainer does not see
    n_gpu = 1  # with more, Trainer would split each batch, which is one item here


class _StepTrainer(Trainer):
    """A Trainer whose loss is a function of model and batch, and which takes the batches in order."""

    def __init__(self, model, arguments, *args, loss_of: Callable[..., torch.Tensor], **kwargs):
        super().__init__(model, arguments, *args, **kwargs)
        self.loss_of, self.ranks = loss_of, launched()
        self.accelerator.device_placement = False
        # Without DDP: each process takes every batch and computes the loss of its share, often not through `forward`.
        prepare = self.accelerator.prepare_model
        self.accelerator.prepare_model = lambda model, **options: prepare(model, **options | {"evaluation_mode": True})

    def _prepare_input(self, data):
        if isinstance(data, torch.Tensor):
            return data.to(next(self.model.parameters()).device)
        return super()._prepare_input(data)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        workers = self.args.dataloader_num_workers
        return torch.utils.data.DataLoader(
            self.train_dataset,
            shuffle=False,
            collate_fn=self.data_collator,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.ranks.count > 1:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = self._mean(
                        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    )
            for norm in model.modules():
                if isinstance(norm, torch.nn.BatchNorm1d) and norm.training:
                    norm.running_mean, norm.running_var = map(self._mean, (norm.running_mean, norm.running_var))
        return loss

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the processes."""
        torch.distributed.all_reduce(values)
        return values / self.ranks.count

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with self.accelerator.autocast():  # Trainer wraps `forward` alone, which not every loss calls
            return self.loss_of(model, inputs)


class _Progress(TrainerCallback):
    """Shows loss and remaining time on standard error, evaluates, and stops a training whose loss explodes."""

    def __init__(
        self,
        label: str,
        evaluate: Callable[[int, list[dict]], dict] | None,
        stop: Callable[[list[dict]], bool],
    ):
        self.label, self.evaluate, self.stop = label, evaluate, stop
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        form = "{desc:<10} [{bar:20}] {percentage:3.0f}%  step {n_fmt}/{total_fmt}{postfix}  {remaining} left"
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.label,
            bar_format=form,
            smoothing=0.03,  # an evaluation or a pause changes the estimated time only a little
            file=sys.stderr,
            disable=not launched().is_first,
        )
        if self.evaluate and not state.global_step:
            state.log_history.append({"step": 0, **self.evaluate(0, [])})

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()
        if self.evaluate and control.should_save:
            figures = self.evaluate(state.global_step, state.log_history)
            state.log_history.append({"step": state.global_step, **figures})
            control.should_training_stop |= self.stop(state.log_history)
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.2f}")
            first = next(row["loss"] for row in state.log_history if "loss" in row)
            if not logs["loss"] < EXPLODED * max(1.0, first):
                raise TrainingError(
                    f"{self.label}: the loss exploded, from {first:.2f} to {logs['loss']:.2f} at step "
                    f"{state.global_step}; lower the learning rate, which is the usual cause"
                )

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether `precision` (auto, fp32 or bf16) means bf16 on `device`; auto does if the hardware has bf16.

    >>> uses_bf16("bf16", torch.device("cpu")), uses_bf16("fp32", torch.device("cpu"))
    (True, False)
    """
    return computes_in_bf16(device) if precision == "auto" else precision == "bf16"


def warmup_cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """The function that returns the learning-rate factor of a step: linear in `warmup`, then a cosine down to 0.

    >>> factor = warmup_cosine(100, 10)
    >>> factor(0), factor(10), round(factor(55), 2)
    (0.1, 1.0, 0.5)
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def fit(
    model: torch.nn.Module,
    batch_of: Callable[[int], dict],
    loss_of: Callable[[torch.nn.Module, dict], torch.Tensor],
    *,
    steps: int,
    groups: list[dict],
    warmup: int,
    folder: Path,
    save_every: int,
    evaluate: Callable[[int, list[dict]], dict] | None = None,
    stop: Callable[[list[dict]], bool] = lambda history: False,
    label: str = "train",
    seed: int = 1,
    bf16: bool = False,
    weight_decay: float = 0.0,
    workers: int = 0,
    shared: bool = False,
) -> list[dict]:
    """Train `model` for `steps` batches, and return the log: rows of `{"step", "loss", ...}`.

    `batch_of(i)` returns batch `i` (a dictionary of tensors and plain values), and `loss_of(model, batch)` its loss.
    groups: parameter groups of the optimiser with their peak learning rates (`params`, `lr`). warmup: in steps. At step
    0 and every `save_every` steps, `evaluate(step, log)` adds its figures to the log; None: no evaluation. Every
    `save_every` steps, `stop(log)` may end the training, and a checkpoint is written to `folder`, from which the next
    call with the same folder resumes. label: names the training in its progress bar and errors. bf16: mixed precision.
    workers: processes that prepare batches; 0: the training process itself. shared: whether several processes of a
    launch train together: `loss_of` returns the loss of a share of the batch, whose mean over the processes is that of
    the batch. Raises `TrainingError` if the loss exceeds EXPLODED times its first value, or is not a number, and for
    several processes if it is not shared.
    """
    if launched().count > 1 and not shared:
        raise TrainingError(f"{label}: paired audio is not learned from by several processes; launch one")
    folder.mkdir(parents=True, exist_ok=True)
    logging.set_verbosity_error()  # Trainer logs every file that it saves
    logging.disable_progress_bar()
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, warmup))
    on_cpu = next(model.parameters()).device.type == "cpu"
    arguments = _arguments(folder, steps, save_every, workers, seed=seed, bf16=bf16, use_cpu=on_cpu)
    trainer = _StepTrainer(
        model,
        arguments,
        data_collator=lambda batches: batches[0],
        train_dataset=_Batches(batch_of, steps),
        optimizers=(optimizer, schedule),
        callbacks=[_Progress(label, evaluate, stop)],
        loss_of=loss_of,
    )
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    if launched().is_first:
        _delete_broken_checkpoints(folder)
    launched().wait()
    last = get_last_checkpoint(folder)
    if last and stop(log := TrainerState.load_from_json(str(Path(last, TRAINER_STATE_NAME))).log_history):
        return _rows(log)  # it was killed after its early stop, which Trainer does not record
    trainer.train(resume_from_checkpoint=last)
    launched().wait()  # for what the first process writes
    return _rows(trainer.state.log_history)


def _rows(history: list[dict]) -> list[dict]:
    """The log as it is whether or not the training was resumed: without running times, and with sorted keys."""
    return [dict(sorted(row.items())) for row in history if "train_runtime" not in row]


def _arguments(folder: Path, steps: int, save_every: int, workers: int, **others) -> TrainingArguments:
    """The arguments of Trainer. others: passed on to it."""
    return _Arguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        logging_steps=min(10, save_every),
        save_steps=save_every,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=4 if workers else None,
        dataloader_pin_memory=False,
        max_grad_norm=1.0,
        logging_nan_inf_filter=False,  # with it, Trainer hides a loss that is not a number
        **others,
    )


def _delete_broken_checkpoints(folder: Path) -> None:
    """Delete the incomplete checkpoints of Trainer, which a kill has left."""
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))  # the last file to be written
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
