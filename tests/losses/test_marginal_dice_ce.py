"""The loss of partly labelled images: what is known is learned, and nothing else."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss

from tskd_monai.data.drawn_structures import undrawn_code
from tskd_monai.losses.marginal_dice_ce import MarginalDiceCELoss, is_measured, may_be

CLASSES = 4


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, CLASSES, 8, 8, generator=generator)
    return logits.requires_grad_(), torch.randint(0, CLASSES, (2, 1, 8, 8), generator=generator).float()


def undraw(label: torch.Tensor, *classes: int) -> torch.Tensor:
    """Returns the label as if these classes had not been drawn."""
    hidden = torch.isin(label, torch.tensor([0.0, *classes]))
    return torch.where(hidden, float(undrawn_code(classes)), label)


def test_complete_labels_give_the_loss_of_monai() -> None:
    logits, label = batch()
    expected = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)(logits, label)
    assert torch.equal(MarginalDiceCELoss()(logits, label), expected)


@pytest.mark.parametrize("classes", [(1,), (2, 3), (24,), (1, 24)])
def test_what_data_writes_is_read_back(classes: tuple[int, ...]) -> None:
    label = torch.tensor([0.0, 2.0, undrawn_code(classes)])
    assert label[2] == undrawn_code(classes)  # exact in float32
    for index in range(1, 25):
        assert may_be(label, index).tolist() == [False, False, index in classes]


def test_more_classes_than_the_code_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 24 structures in a task with partly labelled cases"):
        undrawn_code([25])


def test_the_cross_entropy_is_that_of_background_and_undrawn_class_together() -> None:
    """Without a drawn structure in sight only the cross-entropy is left, of the merged probability."""
    logits, _ = batch()
    label = torch.full((2, 1, 8, 8), float(undrawn_code([3])))
    merged = logits.softmax(dim=1)[:, [0, 3]].sum(dim=1)
    dice = 2.0 / 2  # classes 1 and 2 are known to be absent; of class 3 nothing is known
    assert MarginalDiceCELoss()(logits, label).item() == pytest.approx(dice - merged.log().mean().item(), abs=1e-4)


def test_an_undrawn_class_may_take_the_place_of_background_without_cost() -> None:
    """Moving probability between background and an undrawn class changes nothing; to a drawn class it does."""
    logits, label = batch()
    label = undraw(label, 3)
    swapped = logits[:, [3, 1, 2, 0]]
    drawn = logits[:, [1, 0, 2, 3]]
    loss = MarginalDiceCELoss()
    assert loss(swapped, label).item() == pytest.approx(loss(logits, label).item(), abs=1e-6)
    assert abs(loss(drawn, label).item() - loss(logits, label).item()) > 0.01


def test_ignored_voxels_have_no_gradient_and_no_weight() -> None:
    logits, label = batch()
    ignored = torch.zeros_like(label, dtype=torch.bool)
    ignored[..., 4:] = True
    coded = torch.where(ignored, float(undrawn_code(range(1, CLASSES))), label)
    found = MarginalDiceCELoss()(logits, coded)
    found.backward()
    assert logits.grad is not None and (logits.grad[..., 4:] == 0).all() and (logits.grad[..., :4] != 0).any()
    assert found.item() == pytest.approx(MarginalDiceCELoss()(logits[..., :4], label[..., :4]).item(), abs=1e-6)
    everything = torch.full_like(label, undrawn_code(range(1, CLASSES)))
    assert MarginalDiceCELoss()(logits, everything) == 0


def test_the_minimum_is_reached_by_every_completion_of_the_label() -> None:
    _, label = batch()
    for completed in (label, torch.where(label == 3, 0.0, label)):
        sure = 40 * torch.nn.functional.one_hot(completed[:, 0].long(), CLASSES).movedim(-1, 1).float()
        assert MarginalDiceCELoss()(sure, undraw(label, 3)).item() == pytest.approx(0, abs=1e-4)


def test_a_class_is_measured_where_it_is_shown_or_known_to_be_absent() -> None:
    label = torch.tensor([0.0, 1.0, undrawn_code([2])])
    assert [is_measured(label, index) for index in (1, 2, 3)] == [True, False, True]
