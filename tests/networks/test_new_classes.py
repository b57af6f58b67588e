"""A student with a new class begins as it was: known classes keep their probability, the new one has background's."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.new_classes import with_new_classes
from tskd_monai.networks.students import STUDENTS, build_student

SIZE = (32, 32)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("added", [1, 2])
def test_known_classes_keep_their_probabilities(name: str, added: int) -> None:
    torch.manual_seed(0)
    known, grown = build_student(name, 1, 3, SIZE).eval(), build_student(name, 1, 3 + added, SIZE).eval()
    grown.load_state_dict(with_new_classes(grown, known.state_dict()))
    image = torch.rand(2, 1, *SIZE)
    with torch.no_grad():
        before, after = known(image).softmax(dim=1), grown(image).softmax(dim=1)
    torch.testing.assert_close(after[:, 1:3], before[:, 1:3], atol=1e-5, rtol=1e-4)
    share = before[:, :1] / (1 + added)
    torch.testing.assert_close(after[:, [0, *range(3, 3 + added)]], share.expand(-1, 1 + added, -1, -1), atol=1e-5,
                               rtol=1e-4)  # fmt: skip


def test_weights_of_another_network_are_refused() -> None:
    small, base = (build_student(name, 1, 3, SIZE) for name in ("compact_unet_small", "compact_unet_base"))
    with pytest.raises(ValueError, match="Expected weights of the same network with fewer classes, found"):
        with_new_classes(small, base.state_dict())
    with pytest.raises(ValueError, match="found another"):
        with_new_classes(small, build_student("planned_unet", 1, 2, SIZE).state_dict())
