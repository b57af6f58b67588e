"""The environment of the Python processes that this project starts."""

from __future__ import annotations

import os

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""`python -m` looks for modules in the current folder first, unless this is set; Python 3.11 and later."""


def child_environment() -> dict[str, str]:
    """Returns this process's environment for a Python process that imports nothing from the current folder."""
    return {**os.environ, **SAFE_PATH}
