"""Verdict of the gates on a whole transfer set, as `gates.json` and `transfer_set.json` store it.

`tskd_monai.synthesis.verdict` reaches it; distillation leaves out a set that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tskd_monai.files.json_files import Fields, check_fields

FIELDS: Fields = {"passed": (bool,), "reason": (str,), "use_failed": (bool,)}


@dataclass(frozen=True)
class Verdict:
    """Whether a transfer set is fit for distillation.

    Attributes:
        passed: whether it is.
        reason: the measurements that decided, as a sentence.
        use_failed: whether the student learns from the set although it failed.
    """

    passed: bool
    reason: str
    use_failed: bool = False

    @property
    def used(self) -> bool:
        """Whether the student learns from the set."""
        return self.passed or self.use_failed

    @property
    def sentence(self) -> str:
        """What follows from the verdict, with the reason, for log and report."""
        if self.passed:
            return f"The transfer set passed its gates. {self.reason}"
        consequence = "used all the same, as requested" if self.use_failed else "left out of distillation"
        return f"The transfer set failed its gates and is {consequence}. {self.reason}"

    def content(self) -> dict[str, Any]:
        """Returns the fields to store."""
        return asdict(self)


def read_verdict(content: Mapping[str, Any], where: str) -> Verdict | None:
    """Returns the verdict in the content of a file; None if an earlier version wrote it, or no gate has run.

    Args:
        content: content of the file.
        where: the file, for messages.

    Raises:
        ValueError: if a field is missing or of another type.
    """
    found = content.get("verdict")
    if found is None:
        return None
    check_fields(found, FIELDS, f"{where}, verdict", "run the gates again")
    return Verdict(**{name: found[name] for name in FIELDS})
