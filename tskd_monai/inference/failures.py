"""The message for users in an error that MONAI has wrapped."""

from __future__ import annotations

import re

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
ERROR_NUMBER = re.compile(r"^\[Errno \d+\] ")
TRACEBACK = "Traceback (most recent call last)"


def root_cause(error: BaseException) -> BaseException:
    """Returns the first error in the chain of `error` that is meant for users, else `error` itself.

    MONAI wraps an error of a transform into `RuntimeError: applying transform …`.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, USER_ERRORS):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def describe(error: BaseException) -> str:
    """Returns the message of the root cause, after its type unless the message is written for users."""
    cause = root_cause(error)
    while not isinstance(cause, USER_ERRORS) and cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause)
    if TRACEBACK in text:  # `SaveImaged` puts a writer's traceback into its message; the last line counts
        text = text.strip().splitlines()[-1].partition(": ")[2]
    text = ERROR_NUMBER.sub("", text)
    return text if text.startswith("Expected") else f"{type(cause).__name__}: {text}"
