"""The processes that `accelerate launch` or `torchrun` started, each of which runs the same command.

The first process writes what all share. Imports torch only where there are several.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
WAIT = datetime.timedelta(days=30)  # that a process waits for the others


@dataclass(frozen=True)
class Ranks:
    """This process, `rank`, among `count` processes."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether the process speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this process's share.

        >>> Ranks(1, 3).share("abcdefg")
        'be'
        """
        return items[self.rank :: self.count]

    def rows(self, count: int) -> tuple[list[int], float]:
        """The rows of a batch of `count` that are this process's share, and the weight of the mean of their losses.

        Over all processes, the mean of the weighted means is that of the batch. A process that has no share takes the
        first row, with the weight 0.

        >>> Ranks(1, 2).rows(5), Ranks(1, 2).rows(1)
        (([1, 3], 0.8), ([0], 0.0))
        """
        own = list(self.share(range(count)))
        return own or [0], self.count * len(own) / count

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            self._state().wait_for_everyone()

    def tell(self, value: T) -> T:
        """The value of the first process, in all of them; any that pickle can hold."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        self._state()
        return broadcast_object_list([value])[0]

    def _state(self):
        """The state of accelerate, which connects the processes."""
        import torch
        from accelerate import PartialState

        return PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)


def launched() -> Ranks:
    """The processes of this launch, by the launcher's environment variables; a process alone is the first of one."""
    return Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
