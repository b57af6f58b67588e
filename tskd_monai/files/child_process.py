"""The environment of the Python processes that this project starts."""

from __future__ import annotations

import os

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""`python -m` puts the current folder first on its path, where a `pydicom.py` would replace the package; Python 3.11."""


def child_environment() -> dict[str, str]:
    """Returns this process's environment for a Python process that imports nothing from the current folder."""
    return {**os.environ, **SAFE_PATH}
