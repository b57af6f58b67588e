from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tskd_monai.losses.masked_reconstruction import MaskedReconstructionLoss


def outputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    images = torch.rand(1, 3, 32, 32, generator=generator)
    return {"reconstruction": torch.rand(1, 3, 32, 32, generator=generator), "images": images, "mask": mask}


@pytest.mark.parametrize("key", ["reconstruction", "images"])
def test_visible_patches_never_reach_the_loss(key: str) -> None:
    given = outputs()
    loss = MaskedReconstructionLoss()(given)
    hidden = F.interpolate(given["mask"], scale_factor=16.0)
    changed_visible = MaskedReconstructionLoss()({**given, key: given[key] + 5 * (1 - hidden)})
    changed_masked = MaskedReconstructionLoss()({**given, key: given[key] * (1 + hidden * torch.rand(32, 32))})
    assert torch.equal(loss, changed_visible) and not torch.equal(loss, changed_masked)


def test_normalised_patches_are_a_perfect_reconstruction() -> None:
    given = outputs()
    reconstruction = torch.empty_like(given["images"])
    for row in (slice(0, 16), slice(16, 32)):
        for column in (slice(0, 16), slice(16, 32)):
            patch = given["images"][0, :, row, column]
            reconstruction[0, :, row, column] = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
    assert MaskedReconstructionLoss()({**given, "reconstruction": reconstruction}) < 1e-10
    assert MaskedReconstructionLoss()({**given, "images": 0.5 * given["images"] + 0.2}) == pytest.approx(
        MaskedReconstructionLoss()(given).item(), rel=1e-3
    )


def test_a_constant_patch_has_a_finite_loss() -> None:
    given = {**outputs(), "images": torch.zeros(1, 3, 32, 32)}
    assert torch.isfinite(MaskedReconstructionLoss()(given))


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one masked patch"):
        MaskedReconstructionLoss()({**outputs(), "mask": torch.zeros(1, 1, 2, 2)})
