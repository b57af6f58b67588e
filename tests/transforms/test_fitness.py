from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.transforms.fitness import CheckImageFitsTaskd


def image(modality: str = "", channels: int = 1, unit: str = "mm") -> dict[str, MetaTensor]:
    meta = {"modality": modality, "filename_or_obj": "/data/Doe/a.nii", "unit": unit}
    return {"image": MetaTensor(torch.zeros(channels, 4, 4, 2), meta=meta)}


@pytest.mark.parametrize(("mode", "modality"), [("hu_window", "CT"), ("percentile", "MR"), ("percentile", "US")])
def test_image_of_the_tasks_kind_passes_unchanged(mode: str, modality: str) -> None:
    data = image(modality)
    assert CheckImageFitsTaskd("image", 1, mode)(data) is data


@pytest.mark.parametrize("mode", ["hu_window", "percentile"])
def test_image_that_does_not_say_its_modality_passes(mode: str) -> None:
    assert CheckImageFitsTaskd("image", 1, mode)(image())
    assert CheckImageFitsTaskd("image", 1, mode)({"image": torch.zeros(1, 4, 4, 2)})


def test_other_modality_is_refused_by_the_files_name() -> None:
    with pytest.raises(ValueError, match=r"Expected CT for this model, found MR in a\.nii; choose a model for MR"):
        CheckImageFitsTaskd("image", 1, "hu_window")(image("MR"))
    with pytest.raises(ValueError, match=r"Expected another modality than CT for this model, found CT in a\.nii"):
        CheckImageFitsTaskd("image", 1, "percentile")(image("CT"))


def test_colour_for_a_grey_task_is_refused_and_the_other_way_round() -> None:
    with pytest.raises(ValueError, match=r"Expected 1 channel\(s\) in a\.nii, found 3"):
        CheckImageFitsTaskd("image", 1, "percentile")(image(channels=3))
    with pytest.raises(ValueError, match=r"Expected 3 channel\(s\) in a\.nii, found 1"):
        CheckImageFitsTaskd("image", 3, "rgb")(image())


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_for_a_model_of_volumes_is_refused_for_what_it_is(channels: int) -> None:
    with pytest.raises(ValueError, match=r"Expected a NIfTI volume .*found the 2D image file a\.nii, .* no spacing"):
        CheckImageFitsTaskd("image", 1, "percentile")(image(channels=channels, unit="pixels"))


def test_volume_for_a_model_of_pictures_is_refused_and_a_picture_is_not() -> None:
    fits = CheckImageFitsTaskd("image", 1, "percentile", flat=True)
    with pytest.raises(ValueError, match=r"Expected a 2D image file.*found the volume a\.nii.*model of volumes"):
        fits(image())
    assert fits(image(unit="pixels"))
