"""What a user is told of an error that passed through MONAI."""

from __future__ import annotations

import re

TOLD = (ValueError, TypeError, OSError, ImportError)
ERROR_NUMBER = re.compile(r"^\[Errno \d+\] ")
TRACEBACK = "Traceback (most recent call last)"


def root_cause(error: BaseException) -> BaseException:
    """Returns the first error behind `error` that tells a user what was wrong, else `error` itself.

    MONAI wraps an error of a transform into `RuntimeError: applying transform …`.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TOLD):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def describe(error: BaseException) -> str:
    """Returns the message of what went wrong, with its type unless it is meant for users as it stands."""
    cause = root_cause(error)
    while not isinstance(cause, TOLD) and cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause)
    if TRACEBACK in text:  # `SaveImaged` has put a writer's error into its message, whose end is what happened
        text = text.strip().splitlines()[-1].partition(": ")[2]
    text = ERROR_NUMBER.sub("", text)
    return text if text.startswith("Expected") else f"{type(cause).__name__}: {text}"
