"""The verdict on transfer sets of known worth, and each of its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tskd_monai.data.gates_file import Gates, Interval, Scores
from tskd_monai.synthesis.verdict import judge


def measured(kid: Interval, kid_real: Interval, sharpness: Interval, sharpness_real: Interval) -> Gates:
    """Measurements that pass unless these four fail."""
    scores = Scores(0.1, (0.2,), (0.2,))
    similar = Interval(0.25, 0.1, 0.45)
    return Gates(
        task_hash="a", checkpoint_sha256="c", confidence=scores, pixels=scores, features=scores,
        kid_synthetic=kid, kid_training=kid_real, ms_ssim_synthetic=similar, ms_ssim_training=similar,
        counts={"sampled": 100, "accepted": 94, "near_copies": 1, "low_confidence": 5}, encoder="vit",
        confidence_quantile=0.05, near_copy_quantile=0.01, kid_subset_size=41, kid_subsets=200, seed=0,
        sharpness_synthetic=sharpness, sharpness_training=sharpness_real,
    )  # fmt: skip


CHAOS, CHAOS_SHARPNESS = Interval(0.50, 0.18, 0.97), Interval(0.40, 0.33, 0.46)
REAL = measured(Interval(0.64, 0.42, 0.85), CHAOS, Interval(0.34, 0.33, 0.35), CHAOS_SHARPNESS)
"""Three test patients of CHAOS against its ten training and two validation patients."""


def test_real_images_of_other_patients_pass() -> None:
    verdict = judge(REAL)
    assert verdict.passed and verdict.used
    assert "0.64 (0.42 to 0.85), that of real patients up to 0.97" in verdict.reason


@pytest.mark.parametrize("kid", [Interval(2.03, 1.80, 2.27), Interval(2.98, 2.7, 3.2), Interval(9.99, 8.6, 11.9)])
def test_models_of_23000_10000_and_200_steps_fail_on_realism(kid: Interval) -> None:
    verdict = judge(replace(REAL, kid_synthetic=kid))
    assert not verdict.passed and not verdict.used
    assert f"The kernel distance to the validation patients is {kid.mean:.2f}" in verdict.reason
    assert "beyond the 0.97 of real patients" in verdict.reason


def test_blurred_images_of_150_steps_fail_although_their_kernel_distance_is_low() -> None:
    phantom = measured(
        Interval(0.04, -0.05, 0.25), Interval(0.08, -0.06, 0.30), Interval(0.26, 0.24, 0.28), Interval(0.50, 0.42, 0.61)
    )
    verdict = judge(phantom)
    assert not verdict.passed
    assert verdict.reason.startswith("The images are blurred: sharpness 0.26 (0.24 to 0.28)")
    assert "noisy" in judge(replace(phantom, sharpness_synthetic=Interval(0.8, 0.7, 0.9))).reason


def test_each_other_limit() -> None:
    def failed(**changes: object) -> str:
        verdict = judge(replace(REAL, **changes))  # type: ignore[arg-type]
        assert not verdict.passed
        return verdict.reason

    assert "resemble one another: mean MS-SSIM 0.460, beyond the 0.450" in failed(
        ms_ssim_synthetic=Interval(0.46, 0.4, 0.5)
    )
    assert "26 % are near copies" in failed(counts={**REAL.counts, "near_copies": 26})
    assert "26 % have too low a confidence" in failed(counts={**REAL.counts, "low_confidence": 26})
    assert "too few images to judge realism" in failed(kid_subset_size=4)
    assert judge(replace(REAL, kid_subset_size=5, counts={**REAL.counts, "low_confidence": 25})).passed


def test_every_failure_is_named_and_a_failed_set_can_be_used() -> None:
    verdict = judge(replace(REAL, kid_subset_size=2, counts={**REAL.counts, "near_copies": 100}), use_failed=True)
    assert not verdict.passed and verdict.used
    assert verdict.reason.count(";") == 1 and "used all the same, as requested" in verdict.sentence
