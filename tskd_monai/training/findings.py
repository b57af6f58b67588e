"""What a dry run has found, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

WIDTH = 100  # characters of the findings; longer ones go on in the next line


class Verdict(Enum):
    """Whether training can start as it is."""

    OK = "ok"
    LOOK = "look"
    STOP = "STOP"


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        subject: what was looked at.
        found: what was found, with units.
        verdict: whether training can start.
        advice: what to do; "" where all is well.
    """

    subject: str
    found: str
    verdict: Verdict = Verdict.OK
    advice: str = ""


def findings_table(findings: Sequence[Finding]) -> str:
    """Returns the findings as lines of text: subject, verdict, what was found and what to do."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        text = f"{finding.found}. {finding.advice}".rstrip(" ") if finding.advice else finding.found
        first, *rest = textwrap.wrap(text, WIDTH)
        lines.append(f"{finding.subject:{width}}  {finding.verdict.value:4}  {first}")
        lines += [" " * (width + 8) + line for line in rest]
    return "\n".join(lines)


def conclusion(findings: Sequence[Finding]) -> str:
    """Returns the last line: OK, or how many findings stand in the way."""
    stops = sum(finding.verdict is Verdict.STOP for finding in findings)
    looks = sum(finding.verdict is Verdict.LOOK for finding in findings)
    if stops:
        return f"Not ready: {stops} of {len(findings)} findings say STOP."
    return "OK: training can start." + (f" Worth a look: {looks} of {len(findings)} findings." if looks else "")
