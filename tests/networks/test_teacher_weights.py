from __future__ import annotations

import json
from pathlib import Path

import pytest

from tskd_monai.networks.teacher_folder import PRIVATE_FILE, note_weights, noted_weights


def test_path_of_local_weights_is_noted_privately_alone(tmp_path: Path) -> None:
    weights = tmp_path / "Doe_Jane" / "sam.pth"
    weights.parent.mkdir()
    weights.touch()
    folder = tmp_path / "teacher"
    folder.mkdir()
    assert note_weights(folder, str(weights)) == "sam.pth"
    assert noted_weights(folder, "sam_vit_base", "sam.pth") == str(weights)
    assert json.loads((folder / PRIVATE_FILE).read_text()) == {"encoder_weights": str(weights)}
    (folder / PRIVATE_FILE).unlink()  # as passed on
    assert noted_weights(folder, "sam_vit_base", "sam.pth") == "sam.pth"


@pytest.mark.parametrize("weights", ["shipped", "random", "facebook/sam-vit-base"])
def test_what_is_no_local_file_stays_as_it_is(tmp_path: Path, weights: str) -> None:
    assert note_weights(tmp_path, weights) == weights
    assert noted_weights(tmp_path, "sam_vit_base", weights) == weights
    assert not (tmp_path / PRIVATE_FILE).exists()


def test_strangers_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"published at facebook/sam-vit-base; pass encoder_weights"):
        noted_weights(tmp_path, "sam_vit_base", "somebody/sam-vit-base")
