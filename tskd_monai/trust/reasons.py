"""The reasons of a verdict in one line."""

from __future__ import annotations

from collections.abc import Sequence

MOST_REASONS = 4


def short_reasons(reasons: Sequence[str]) -> str:
    """Returns the most important reasons, the first of them, and where the others are."""
    others = len(reasons) - MOST_REASONS
    stated = "; ".join(reasons[:MOST_REASONS])
    return stated if others <= 0 else f"{stated}; and {others} more in qc.csv"
