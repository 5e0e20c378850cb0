"""Recognise batches by the actors of a Ray cluster, each of which holds a model.

Ray Data places the actors, gives them batches, and limits what waits. If an actor dies, it starts another one, which
gets the batch.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.decode.batches import AudioBatch
from adapt.errors import AdaptError, DataError, RecipeError, first_line

if TYPE_CHECKING:
    from adapt.decode.transcribe import Advance, Engine, Transcriber

DEATHS = 3  # of an actor, after which a job fails


class _Actor:
    """Holds the model. Problems that a user can correct are results, since Ray would add its traceback to errors."""

    def __init__(self, build: Callable[[], Transcriber], folder: Path):
        warnings.simplefilter("ignore")  # as the command line does
        try:
            os.chdir(folder)  # paths may be relative
        except OSError as error:
            problem = f"cannot be entered on a machine of the cluster: {error.strerror}"
            self.transcriber = DataError(f"{folder}: {problem}; start the command in a folder that all machines share")
            return
        try:
            self.transcriber = build()
        except AdaptError as error:
            self.transcriber = error

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """From a pickled `AudioBatch` to its pickled rows, or an error."""
        result = self.transcriber
        if not isinstance(result, AdaptError):
            try:
                result = self.transcriber.rows(pickle.loads(row["batch"]))
            except AdaptError as error:
                result = error
        return {"result": pickle.dumps(result)}


def on_ray(build: Callable[[], Transcriber], workers: int | None, device: str) -> Engine:
    """The engine (`transcribe.Engine`) that has the batches recognised by actors of Ray.

    build: makes the transcriber of an actor. workers: actors; None: as many as the cluster has GPUs, or one. device:
    `cpu` takes no GPU.

    The engine uses the cluster that this process is connected to. Without a connection it connects to that of
    RAY_ADDRESS or to the last one that was started on this machine, or starts one until the last batch is done.

    Raises RecipeError if Ray is not installed; the engine raises it if Ray does not start, and the errors of `build`
    and of `Transcriber.rows`.
    """
    try:
        import ray.data
    except ImportError:
        raise RecipeError("--engine ray: Ray cannot be imported; pip install 'adapt-asr[ray]'") from None

    def engine(batches: Sequence[AudioBatch], advance: Advance) -> Generator[list[dict], None, None]:
        if not batches:
            return
        own = not ray.is_initialized()
        try:
            _connect()
            for batch, result in zip(batches, _results(build, workers, device, batches), strict=True):
                if isinstance(result, AdaptError):
                    raise result
                advance(batch.seconds)
                yield result
        except ray.exceptions.RayError as error:
            problem = f"a worker failed: {first_line(error).rstrip('.')}"
            way_out = "lower --workers or --batch-size if it had too little memory; the same command continues"
            raise RecipeError(f"--engine ray: {problem}; {way_out}") from error
        finally:
            if own:
                ray.shutdown()

    return engine


def _connect() -> None:
    """Connect this process to a cluster if it is not. Raises RecipeError if that fails."""
    import ray

    try:
        if not ray.is_initialized():
            ray.init(logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"Ray does not start: {first_line(error).rstrip('.')}"
        raise RecipeError(f"--engine ray: {problem}; check RAY_ADDRESS, or leave it unset to start Ray here") from error


def _results(
    build: Callable[[], Transcriber], workers: int | None, device: str, batches: Sequence[AudioBatch]
) -> Iterator[list[dict] | AdaptError]:
    """What the actors say about each batch, in the order of the batches."""
    import ray.data

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [machine.get("GPU", 0) for machine in machines] if device != "cpu" else [0]
    workers = min(workers or int(sum(gpus)) or 1, len(batches))
    if any(gpus):
        needs = {"num_gpus": min(1, share(workers, gpus))}
    else:
        needs = {"num_cpus": share(workers, [machine.get("CPU", 0) for machine in machines])}  # torch takes all of them
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports each call
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"batch": pickle.dumps(batch)} for batch in batches]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))  # Ray passes on nothing smaller than a block
    data.context.execution_options.preserve_order = True
    pool = ray.data.ActorPoolStrategy(size=workers)
    needs |= {"max_restarts": DEATHS, "max_task_retries": DEATHS}
    data = data.map(_Actor, fn_constructor_args=(build, Path.cwd()), compute=pool, **needs)
    # With prefetching, finished rows would wait for later ones.
    for block in data.iter_batches(batch_size=None, prefetch_batches=0):
        yield from map(pickle.loads, block["result"])


def share(workers: int, amounts: Sequence[float]) -> float:
    """What each worker can have of cores or GPUs: a whole number, or a fraction if there are more workers than units.

    amounts: of each machine; where none has any yet, a worker waits for one.

    >>> share(2, [4]), share(2, [4, 4, 4]), share(3, [2]), share(3, [0])
    (2, 4, 0.5, 1.0)
    """
    whole = (n for n in range(int(max(amounts)), 0, -1) if sum(amount // n for amount in amounts) >= workers)
    return next(whole, 1 / math.ceil(workers / (sum(amounts) or workers)))
