"""The learning curve: exact on a law without noise, wide with little data, and its intervals contain the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tskd_monai.evaluation.learning_curve import CurveRun, fit_curve, fit_power_law, foretold

SLICES = (16, 40, 80, 160)


def error(number: float) -> float:
    return 1.2 * number**-0.5 + 0.1


def runs(
    seeds: int = 2, patients: int = 4, noise: float = 0.0, spread: float = 0.0, seed: int = 0, flat: bool = False
) -> list[CurveRun]:
    """Runs on a power law; each run and each patient deviates from it."""
    generator = np.random.default_rng(seed)
    of_patients = generator.normal(0, spread, patients)
    made = []
    for number in SLICES:
        for run in range(seeds):
            mean = 0.3 if flat else error(number)
            values = (
                1 - mean * (1 + generator.normal(0, noise)) - of_patients - generator.normal(0, spread / 2, patients)
            )
            made.append(CurveRun(number, run, {str(index): float(value) for index, value in enumerate(values)}))
    return made


def test_a_law_without_noise_is_found_and_extrapolated() -> None:
    curve = fit_curve(runs())
    for number in (*SLICES, 320):
        assert curve.dice(number).value == pytest.approx(1 - error(number), abs=5e-4)
    gain = curve.gain(25)
    assert gain == pytest.approx([error(160) - error(185)] * 3, abs=5e-4)
    assert curve.sentence(25) == f"25 more labelled slices: about {gain.value:+.3f} Dice (0.007 to 0.007)."


def test_the_fit_is_not_worse_than_a_free_optimiser() -> None:
    from scipy.optimize import least_squares

    slices = np.array(SLICES, dtype=float)
    generator = np.random.default_rng(1)
    for _ in range(5):
        errors = np.array([error(number) for number in SLICES]) * (1 + generator.normal(0, 0.1, 4))
        law = fit_power_law(slices, errors[None])
        ours = sum(((law.errors(n)[0] - e) / e) ** 2 for n, e in zip(SLICES, errors, strict=True))
        bounds = ([0, 0.05, 0], [np.inf, 2, 1])

        def residuals(law: np.ndarray, errors: np.ndarray = errors) -> np.ndarray:
            return (law[0] * slices ** -law[1] + law[2] - errors) / errors

        theirs = min(2 * least_squares(residuals, (1, b, 0.01), bounds=bounds).cost for b in (0.1, 0.5, 1.5))
        assert ours <= 1.03 * theirs + 1e-5


def test_more_noise_and_fewer_seeds_make_the_interval_wider() -> None:
    def width(curve_runs: list[CurveRun]) -> float:
        gain = fit_curve(curve_runs).gain(25)
        return gain.high - gain.low

    assert width(runs(3, noise=0.03)) < width(runs(3, noise=0.2))
    assert width(runs(6, noise=0.1, seed=2)) < width(runs(2, noise=0.1, seed=2))


def test_an_error_that_grows_is_a_flat_line_and_noise_cannot_tell() -> None:
    growing = [CurveRun(n, s, dict.fromkeys("ab", 0.7 - n / 1000)) for n in SLICES for s in (0, 1)]
    assert fit_curve(growing).gain(25).value == 0
    for flat in (growing, runs(flat=True)):
        assert "cannot tell; Dice does not grow with the labels" in fit_curve(flat).sentence(25)
    saturated = [CurveRun(n, s, dict.fromkeys("ab", 0.9 - 2 / n**2)) for n in SLICES for s in (0, 1)]
    assert fit_curve(saturated).sentence(25) == "25 more labelled slices: little, at most +0.000 Dice."
    assert "the curve cannot tell" in fit_curve(runs(noise=0.4, seed=3)).sentence(100)


def test_the_interval_of_the_gain_contains_the_truth() -> None:
    """Of 40 experiments with two seeds and four patients, at most 5 may miss it; 2 are expected."""
    truth = error(160) - error(185)
    gains = [fit_curve(runs(noise=0.06, spread=0.04, seed=seed)).gain(25) for seed in range(40)]
    assert sum(gain.low <= truth <= gain.high for gain in gains) >= 35
    assert np.median([gain.value for gain in gains]) == pytest.approx(truth, rel=0.3)


def test_the_largest_point_is_foretold_from_the_others() -> None:
    found, measured = foretold(runs())
    assert found.value == pytest.approx(measured, abs=1e-3)
    alone, _ = foretold(runs(seeds=1, noise=0.05))
    assert math.isinf(alone.low) and math.isinf(alone.high)
    hits = [foretold(runs(noise=0.06, seed=seed)) for seed in range(40)]
    assert sum(found.low <= value <= found.high for found, value in hits) >= 34
    wild, _ = foretold(runs(noise=0.6, seed=1))
    assert 0 <= wild.low <= wild.high <= 1


def test_patients_without_a_dice_are_left_out_and_missing_runs_refused() -> None:
    made = runs(patients=3)
    without = [run._replace(dice={**run.dice, "1": math.nan}) if run.slices == 40 else run for run in made]
    assert fit_curve(without).errors.shape == (2, 4, 2)
    with pytest.raises(ValueError, match="found 7 runs at 4 numbers and 3 patients"):
        fit_curve(made[:-1])
    with pytest.raises(ValueError, match="1 patients"):
        fit_curve(runs(patients=1))
