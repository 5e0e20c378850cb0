"""Errors in a user's files or settings. The command line prints them without a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

SHOWN = 5  # problems of an error that are printed

# The errors that soundfile raises for a file that it cannot read. Its own are RuntimeErrors; a .raw file raises a
# TypeError, and a file name that is not UTF-8 a ValueError.
UNREADABLE = (OSError, RuntimeError, TypeError, ValueError)


class AdaptError(Exception):
    """Base of the errors that a user can correct. Each problem is one line: `place: problem; way out`.

    The message shows the first SHOWN of them, and how many others there are.

    >>> print(DataError("a.jsonl:1: no 'id'; add one", "a.jsonl:7: no 'id'; add one"))
    a.jsonl:1: no 'id'; add one
    a.jsonl:7: no 'id'; add one
    >>> str(DataError(*"abcdefgh")).splitlines()[-2:]
    ['e', 'and 3 more problems']
    """

    def __init__(self, *problems: str):
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        others = len(self.problems) - SHOWN
        more = [f"and {others:,} more problem{'s' if others > 1 else ''}"] if others > 0 else []
        return "\n".join([*self.problems[:SHOWN], *more])


class RecipeError(AdaptError):
    """A recipe, an override on the command line or a prompt template is wrong, or settings contradict each other."""


class DataError(AdaptError):
    """A text, manifest, lexicon, audio or hypothesis file is missing or wrong."""


class ModelError(AdaptError):
    """A model, adapter, soft prompt or learned prompt cannot be loaded, or does not fit the base."""


class TrainingError(AdaptError):
    """Training was stopped because it cannot succeed."""


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, or the name of the error if its message is empty.

    >>> first_line(ValueError("no such thing\\nat line 3")), first_line(EOFError())
    ('no such thing', 'EOFError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is that of a full disk. torch and safetensors have their own.

    >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device")), is_disk_full(ValueError("no"))
    (True, False)
    """
    texts = ("No space left on device", "PytorchStreamWriter failed", "unexpected pos")
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in texts):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_disk_full(cause)


def unreadable(audio: str | os.PathLike) -> str:
    """The problem and the way out for an audio file that soundfile cannot read.

    >>> unreadable("gone.wav")
    'gone.wav: no such file; give a wav, flac, ogg or mp3 file'
    """
    reason = "not readable as audio" if Path(audio).exists() else "no such file"
    return f"{os.fsencode(audio).decode('utf-8', 'replace')}: {reason}; give a wav, flac, ogg or mp3 file"


def no_samples(audio: str | os.PathLike) -> str:
    """The problem and the way out for an audio file of length 0.

    >>> no_samples("empty.wav")
    'empty.wav: holds no samples; record it again, or remove it from the manifest'
    """
    return f"{audio}: holds no samples; record it again, or remove it from the manifest"
