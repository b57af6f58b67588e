from __future__ import annotations

import pytest
import torch

from tskd_monai.losses.feature_distillation import FeatureMSELoss


def _features(seed: int, shape: tuple[int, ...] = (2, 6, 4, 3)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _standardised(features: torch.Tensor) -> torch.Tensor:
    mean, variance = features.mean(1, keepdim=True), features.var(1, keepdim=True, unbiased=False)
    return (features - mean) / torch.sqrt(variance + 1e-5)


def test_the_value_is_the_mean_square_to_the_standardised_teacher() -> None:
    student, teacher = _features(0), _features(1) * 40 + 7
    loss = FeatureMSELoss()(student, teacher)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(((student - _standardised(teacher)) ** 2).mean().item(), rel=1e-9)


def test_a_student_that_gives_the_standardised_features_costs_nothing() -> None:
    teacher = _features(1) * 3
    assert FeatureMSELoss()(_standardised(teacher), teacher).item() == pytest.approx(0, abs=1e-12)
    assert FeatureMSELoss()(_standardised(teacher.flip(1)), teacher).item() > 0.1


def test_the_size_of_an_encoder_s_features_does_not_matter() -> None:
    student, teacher = _features(0), _features(1)
    expected = FeatureMSELoss()(student, teacher).item()
    gain = 1 + _features(2, (2, 1, 4, 3)).abs() * 50  # a different one at each position
    assert FeatureMSELoss()(student, teacher * gain - 3).item() == pytest.approx(expected, rel=1e-3)
    zero = FeatureMSELoss()(torch.zeros_like(student), teacher)
    assert zero.item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("size", [(8, 6), (2, 2), (5, 9)])
def test_students_on_another_grid_are_compared_on_the_teacher_s(size: tuple[int, int]) -> None:
    vector = _features(3, (1, 6, 1, 1))
    teacher = vector.expand(2, 6, 4, 3)
    student = _standardised(vector).expand(2, 6, *size)
    assert FeatureMSELoss()(student, teacher).item() == pytest.approx(0, abs=1e-12)
    other = _features(0, (2, 6, *size))
    assert torch.isfinite(FeatureMSELoss()(other, teacher)) and FeatureMSELoss()(other, teacher) > 0.1


def test_the_grid_keeps_its_orientation() -> None:
    teacher = _features(1, (1, 6, 4, 4))
    student = torch.nn.functional.interpolate(_standardised(teacher), scale_factor=2, mode="nearest")
    loss = FeatureMSELoss()
    assert loss(student, teacher).item() < 0.5 * loss(student.transpose(2, 3), teacher).item()
    assert loss(student, teacher).item() < 0.5 * loss(student.flip(3), teacher).item()


def test_the_gradient_is_correct_and_reaches_only_the_student() -> None:
    student = _features(0, (1, 3, 4, 4)).requires_grad_()
    teacher = _features(1, (1, 3, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda features: FeatureMSELoss()(features, teacher.detach()), student)
    FeatureMSELoss()(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_unprojected_features_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected student features projected to 6 channels, found 5"):
        FeatureMSELoss()(_features(0, (2, 5, 4, 3)), _features(1))
