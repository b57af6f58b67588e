from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss

from tskd_monai.losses.feature_distillation import FeatureMSELoss
from tskd_monai.losses.logit_distillation import ClassBalancedKLLoss
from tskd_monai.losses.task_specific_distillation import TaskSpecificDistillationLoss

Outputs = dict[str, torch.Tensor]


def _outputs(seed: int, grid: tuple[int, int]) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) * 2
    return {"logits": logits, "features": torch.randn(2, 5, *grid, generator=generator, dtype=torch.float64)}


@pytest.fixture
def student() -> Outputs:
    return {name: value.requires_grad_() for name, value in _outputs(0, (4, 4)).items()}


@pytest.fixture
def teacher() -> Outputs:
    return _outputs(1, (2, 2))


def test_the_terms_are_summed_with_their_weights(student: Outputs, teacher: Outputs) -> None:
    loss = TaskSpecificDistillationLoss(0.3, 0.7, 1.9, temperature=2.0)(student, teacher)
    classes = teacher["logits"].argmax(1, keepdim=True)
    hard = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)(student["logits"], classes)
    feature = FeatureMSELoss()(student["features"], teacher["features"])
    kl = ClassBalancedKLLoss(2.0)(student["logits"], teacher["logits"])
    assert loss.shape == ()
    assert loss.item() == pytest.approx((0.3 * feature + 0.7 * kl + 1.9 * hard).item(), rel=1e-9)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_doubling_a_weight_doubles_only_its_term(student: Outputs, teacher: Outputs, position: int) -> None:
    alone, doubled, all_three = [0.0] * 3, [1.0] * 3, [1.0] * 3
    alone[position], doubled[position] = 1.0, 2.0
    term, more, base = (TaskSpecificDistillationLoss(*w)(student, teacher).item() for w in (alone, doubled, all_three))
    assert term > 0 and more - base == pytest.approx(term, rel=1e-9)


def test_a_weight_of_0_leaves_its_term_out(student: Outputs, teacher: Outputs) -> None:
    without_features = {"logits": student["logits"]}
    value = TaskSpecificDistillationLoss(feature_weight=0)(without_features, {"logits": teacher["logits"]})
    assert torch.isfinite(value) and value > 0


def test_task_agnostic_distillation_never_looks_at_the_teacher_s_logits(student: Outputs, teacher: Outputs) -> None:
    agnostic = TaskSpecificDistillationLoss(1.0, 0.0, 0.0)
    value = agnostic(student, {"features": teacher["features"]})
    value.backward()
    assert student["features"].grad.abs().sum() > 0
    assert student["logits"].grad is None or not student["logits"].grad.any()


def test_gradients_reach_only_the_student(student: Outputs, teacher: Outputs) -> None:
    learnable = {name: value.clone().requires_grad_() for name, value in teacher.items()}
    TaskSpecificDistillationLoss()(student, learnable).backward()
    assert all(value.grad.abs().sum() > 0 for value in student.values())
    assert all(value.grad is None for value in learnable.values())


def test_descending_brings_the_student_s_classes_to_the_teacher_s(student: Outputs, teacher: Outputs) -> None:
    optimizer = torch.optim.Adam(student.values(), lr=0.2)
    loss = TaskSpecificDistillationLoss()
    first = loss(student, teacher).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    assert loss(student, teacher).item() < 0.3 * first
    agreement = (student["logits"].argmax(1) == teacher["logits"].argmax(1)).double().mean().item()
    assert agreement > 0.97


def test_a_teacher_that_sees_only_background_gives_a_finite_loss(student: Outputs, teacher: Outputs) -> None:
    teacher["logits"][:, 0] = 50
    value = TaskSpecificDistillationLoss()(student, teacher)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student["logits"].grad).all()


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (-0.1, 0.5, 1.0)])
def test_wrong_weights_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=rf"weights of at least 0, .*'feature_weight': {weights[0]}"):
        TaskSpecificDistillationLoss(*weights)
