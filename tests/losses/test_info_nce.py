from __future__ import annotations

import math

import pytest
import torch

from tskd_monai.losses.info_nce import SymmetricInfoNCELoss


def views(batch: int = 6) -> torch.Tensor:
    one = torch.randn(batch, 1, 16, generator=torch.Generator().manual_seed(0))
    return one.expand(-1, 2, -1)


def test_identical_views_cost_less_than_shuffled_ones() -> None:
    same = views()
    loss = SymmetricInfoNCELoss()
    assert loss({"queries": same, "keys": same}) < 0.5 * loss({"queries": same, "keys": same.roll(1, dims=0)})


def test_indistinguishable_images_cost_the_logarithm_of_the_batch() -> None:
    ones = torch.ones(5, 2, 4)
    loss = SymmetricInfoNCELoss(0.3)({"queries": ones, "keys": ones})
    assert loss.item() == pytest.approx(4 * 0.3 * math.log(5), rel=1e-5)


def test_lengths_do_not_matter_and_keys_get_no_gradient() -> None:
    queries, keys = views().clone().requires_grad_(), views().roll(1, dims=0).clone().requires_grad_()
    loss = SymmetricInfoNCELoss()({"queries": queries, "keys": keys})
    torch.testing.assert_close(loss, SymmetricInfoNCELoss()({"queries": 3 * queries, "keys": 0.1 * keys}))
    loss.backward()
    assert queries.grad is not None and queries.grad.abs().sum() > 0 and keys.grad is None


def test_a_view_is_compared_with_the_other_one() -> None:
    same = views()
    keys = torch.stack([same[:, 0], -same[:, 0]], dim=1)  # the second view's keys point away
    loss = SymmetricInfoNCELoss()
    assert loss({"queries": same, "keys": keys}) > loss({"queries": same, "keys": same})


def test_a_temperature_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="a temperature above 0, found 0"):
        SymmetricInfoNCELoss(0)
