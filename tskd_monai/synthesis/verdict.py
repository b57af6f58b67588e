"""Verdict on a whole transfer set, from the measurements of its gates.

Real patients set the scale: a limit is what as many real training patients reach as the validation section has, each
compared with the validation patients as the synthetic images are. The reasons for the constants, with measurements, are
in the README of the bundle.
"""

from __future__ import annotations

from tskd_monai.data.gates_file import Gates, Interval
from tskd_monai.data.verdict import Verdict

SMALLEST_SUBSET = 5
"""Smallest size of a draw, half of the smaller set, on which a verdict rests."""

SHARPNESS_TOLERANCE = 0.1
"""Relative distance to the interval of real patients within which the sharpness passes."""

MAX_DROPPED = 0.25
"""Largest fraction of images dropped for one reason; the real images that define the thresholds have 0.01 and 0.05."""


def judge(gates: Gates, use_failed: bool = False) -> Verdict:
    """Returns the verdict on a transfer set.

    Args:
        gates: its measurements.
        use_failed: whether the student learns from the set even if it fails.
    """
    derived = f" {_derived(gates)}" if gates.derived else ""
    failures = [text for text in (_size(gates) or _realism(gates), _sharpness(gates), *_images(gates)) if text]
    if failures:
        return Verdict(False, f"{_capital('; '.join(failures))}.{derived}", use_failed)
    reason = (
        f"Its kernel distance to the validation patients is {_range(gates.kid_synthetic)}, that of real patients up to "
        f"{gates.kid_training.high:.2f}; sharpness, diversity and the fractions of dropped images are within their "
        "limits."
    )
    return Verdict(True, f"{reason}{derived}", use_failed)


def _derived(gates: Gates) -> str:
    copies, sampled = gates.counts["near_copies"], gates.counts["sampled"]
    return (
        "The images are variations of real slices, derivatives of patients' images that must not leave the site; "
        f"{copies} of {sampled} are marked as near copies."
    )


def _size(gates: Gates) -> str:
    if gates.kid_subset_size >= SMALLEST_SUBSET:
        return ""
    return (
        f"there are too few images to judge realism: it needs at least {2 * SMALLEST_SUBSET} synthetic and as many "
        "validation images that are not blank"
    )


def _realism(gates: Gates) -> str:
    if gates.kid_synthetic.mean <= gates.kid_training.high:
        return ""
    return (
        f"the kernel distance to the validation patients is {_range(gates.kid_synthetic)}, beyond the "
        f"{gates.kid_training.high:.2f} of real patients"
    )


def _sharpness(gates: Gates) -> str:
    if gates.sharpness_synthetic is None or gates.sharpness_training is None:
        return ""
    found, real = gates.sharpness_synthetic.mean, gates.sharpness_training
    if found < (1 - SHARPNESS_TOLERANCE) * real.low:
        kind = "blurred"
    elif found > (1 + SHARPNESS_TOLERANCE) * real.high:
        kind = "noisy"
    else:
        return ""
    return f"the images are {kind}: sharpness {_range(gates.sharpness_synthetic)}, of real patients {_range(real)}"


def _images(gates: Gates) -> list[str]:
    """Returns the failures of diversity, memorisation and confidence."""
    failures = []
    similarity, real = gates.ms_ssim_synthetic.mean, gates.ms_ssim_training.high
    if similarity > real:
        failures.append(
            f"the images resemble one another: mean MS-SSIM {similarity:.3f}, beyond the {real:.3f} of real pairs"
        )
    for name, text in (
        ("near_copies", "are near copies of training images"),
        ("low_confidence", "have too low a confidence of the teacher"),
    ):
        if gates.derived and name == "near_copies":
            continue  # variations resemble their sources by construction
        fraction = gates.counts[name] / gates.counts["sampled"]
        if fraction > MAX_DROPPED:
            failures.append(f"{100 * fraction:.0f} % {text}, at most {100 * MAX_DROPPED:.0f} % may")
    return failures


def _range(interval: Interval) -> str:
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})".replace("-", "−")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
