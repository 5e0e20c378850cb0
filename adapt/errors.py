"""What goes wrong through a user's files or settings. The command line prints these without a traceback."""

from __future__ import annotations

import os
from pathlib import Path

# What soundfile raises for a file: its own errors are RuntimeErrors; of a .raw it says TypeError, and ValueError of a
# name that is not UTF-8.
UNREADABLE = (OSError, RuntimeError, TypeError, ValueError)


class AdaptError(Exception):
    """Base of the errors that a user can mend; each problem is one line: `place: problem; way out`.

    >>> print(DataError("a.jsonl:1: no 'id'; add one", "a.jsonl:7: no 'id'; add one"))
    a.jsonl:1: no 'id'; add one
    a.jsonl:7: no 'id'; add one
    """

    def __init__(self, *problems: str):
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class RecipeError(AdaptError):
    """recipe.yaml or an override on the command line is wrong."""


class DataError(AdaptError):
    """A text, manifest, lexicon, audio or hypothesis file is missing or wrong."""


class ModelError(AdaptError):
    """A model, adapter or soft prompt cannot be loaded or does not fit."""


class TrainingError(AdaptError):
    """A training that cannot come to anything, stopped early."""


def first_line(error: BaseException) -> str:
    """What an error of a library's says, in a line; its name, where it says nothing.

    >>> first_line(ValueError("no such thing\\nat line 3")), first_line(EOFError())
    ('no such thing', 'EOFError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def unreadable(audio: str | os.PathLike) -> str:
    """What is said of a file that soundfile does not read.

    >>> unreadable("gone.wav")
    'gone.wav: no such file; give a wav, flac, ogg or mp3 file'
    """
    reason = "not readable as audio" if Path(audio).exists() else "no such file"
    return f"{os.fsencode(audio).decode('utf-8', 'replace')}: {reason}; give a wav, flac, ogg or mp3 file"
