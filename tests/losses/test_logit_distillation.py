from __future__ import annotations

import math

import pytest
import torch

from tskd_monai.losses.logit_distillation import ClassBalancedKLLoss


def _logits(seed: int, shape: tuple[int, ...] = (2, 4, 5, 3), dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def _by_hand(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """The formula of the docstring, pixel by pixel in plain Python."""
    per_class: dict[int, list[float]] = {}
    for image in range(student.shape[0]):
        for row in range(student.shape[2]):
            for column in range(student.shape[3]):
                z_t, z_s = teacher[image, :, row, column].tolist(), student[image, :, row, column].tolist()
                e_t, e_s = ([math.exp(z / temperature) for z in values] for values in (z_t, z_s))
                p_t, p_s = [e / sum(e_t) for e in e_t], [e / sum(e_s) for e in e_s]
                kl = sum(t * math.log(t / s) for t, s in zip(p_t, p_s, strict=True))
                per_class.setdefault(z_t.index(max(z_t)), []).append(kl)
    return sum(sum(values) / len(values) for values in per_class.values()) / len(per_class)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_formula(temperature: float) -> None:
    student, teacher = _logits(0), _logits(1)
    loss = ClassBalancedKLLoss(temperature)(student, teacher)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(_by_hand(student, teacher, temperature), rel=1e-9)


def test_equal_probabilities_cost_nothing_and_others_something() -> None:
    teacher = _logits(0)
    shifted = teacher + _logits(1, (2, 1, 5, 3))  # softmax is invariant to a shift common to all classes
    loss = ClassBalancedKLLoss()
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss(shifted, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss(teacher + _logits(2), teacher).item() > 0.1


def test_a_small_class_counts_as_much_as_background() -> None:
    teacher = torch.zeros(1, 2, 8, 8)
    teacher[:, 0] = 4.0
    teacher[:, :, 0, 0] = torch.tensor([-4.0, 4.0])  # one pixel of 64 is an organ
    organ_missed, background_missed = teacher.clone(), teacher.clone()
    organ_missed[:, :, 0, 0] *= -1
    background_missed[:, :, 1:] = 0.0
    background_missed[:, :, 0, 1:] = 0.0
    loss = ClassBalancedKLLoss()
    one_pixel = _by_hand(organ_missed[:, :, :1, :1], teacher[:, :, :1, :1], 1.0)
    background = _by_hand(background_missed[:, :, 4:, 4:], teacher[:, :, 4:, 4:], 1.0)
    assert loss(organ_missed, teacher).item() == pytest.approx(one_pixel / 2, rel=1e-5)  # not / 64
    assert loss(background_missed, teacher).item() == pytest.approx(background / 2, rel=1e-5)


def test_a_class_that_the_teacher_gives_nowhere_is_left_out() -> None:
    teacher = _logits(1)
    teacher[:, 2] = -5 + teacher[:, 2].clamp(max=0)
    teacher[:, 0, 0, 0] = 9  # there is background at least
    assert 2 not in teacher.argmax(1).unique().tolist()
    student = _logits(0)
    assert ClassBalancedKLLoss()(student, teacher).item() == pytest.approx(_by_hand(student, teacher, 1.0), rel=1e-9)
    only_background = torch.zeros(1, 3, 2, 2)
    only_background[:, 0] = 5
    value = ClassBalancedKLLoss()(torch.zeros(1, 3, 2, 2), only_background)
    assert value.item() == pytest.approx(_by_hand(torch.zeros(1, 3, 2, 2), only_background, 1.0), rel=1e-5)


def test_classes_are_counted_over_the_batch_not_the_image() -> None:
    student, teacher = _logits(0), _logits(1)
    loss = ClassBalancedKLLoss()
    assert loss(student.flip(0), teacher.flip(0)).item() == pytest.approx(loss(student, teacher).item(), rel=1e-12)
    tall = [logits.movedim(0, 2).reshape(1, 4, 10, 3) for logits in (student, teacher)]
    assert loss(*tall).item() == pytest.approx(loss(student, teacher).item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_correct_and_reaches_only_the_student(temperature: float) -> None:
    student, teacher = _logits(0, (1, 3, 2, 3)).requires_grad_(), _logits(1, (1, 3, 2, 3)).requires_grad_()
    loss = ClassBalancedKLLoss(temperature)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, teacher.detach()), student)
    loss(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_extreme_logits_stay_finite() -> None:
    teacher = torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1)
    student = (-teacher).requires_grad_()
    value = ClassBalancedKLLoss()(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(2e4) and torch.isfinite(student.grad).all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the teacher's shape \(1, 3, 4, 4\), found \(1, 2, 4, 4\)"):
        ClassBalancedKLLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"Expected a temperature above 0, found {temperature}"):
            ClassBalancedKLLoss(temperature)
