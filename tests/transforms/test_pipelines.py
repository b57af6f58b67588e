from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandGaussianNoised
from PIL import Image

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity, Task
from tskd_monai.training.validation import slice_inferer
from tskd_monai.transforms.pipelines import (
    TwoViews,
    augmentation,
    contrastive_augmentation,
    preprocessing,
    training_preprocessing,
)

MakeTask = Callable[..., Task]
WriteNifti = Callable[..., Path]
KEYS = ("image", "label")
ORIENTATIONS = ["RAS", "LPS", "PLS", "ASR", "SPL", "IRA"]


def scan(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 400, shape).astype(np.int16)


class Recorder(torch.nn.Module):
    """A network that keeps the slices it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(torch.as_tensor(images).clone())
        return images


def test_volume_becomes_rows_columns_slices_in_unit_range(make_task: MakeTask, write_nifti: WriteNifti) -> None:
    image = preprocessing(make_task())({"image": write_nifti("a.nii.gz", scan((20, 30, 5)))})["image"]
    assert image.shape == (1, 30, 20, 5)
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (0, 1)


def test_pixdim_is_that_of_rows_then_columns(make_task: MakeTask, write_nifti: WriteNifti) -> None:
    path = write_nifti("a.nii.gz", scan((21, 31, 5)), spacing=(1.0, 3.0, 7.0))
    image = preprocessing(make_task(pixdim=(1.5, 2.0)))({"image": path})["image"]
    assert image.shape == (1, 61, 11, 5)
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), (1.5, 2.0, 7.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("axcodes", "corner"),
    # The first voxel of an array that runs to posterior, left and superior is the most anterior, right and inferior.
    [("PLS", (5, 7, 0)), ("ARI", (0, 0, 4)), ("RAS", (0, 0, 0)), ("SPR", (0, 7, 0))],
)
def test_axes_have_the_orientation_of_the_task(
    make_task: MakeTask, write_nifti: WriteNifti, axcodes: str, corner: tuple[int, int, int]
) -> None:
    array = np.zeros((6, 8, 5), np.int16)
    array[corner] = 400
    task = make_task(axcodes=axcodes, intensity=Intensity("hu_window", 0, 400))
    image = preprocessing(task)({"image": write_nifti("a.nii.gz", array, spacing=(1.0, 1.0, 1.0))})["image"]
    assert np.argwhere(np.asarray(image)).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("pixdim", [(1.0, 1.0), (1.3, 0.8)])
def test_stored_orientation_does_not_matter(
    make_task: MakeTask, write_nifti: WriteNifti, pixdim: tuple[float, float]
) -> None:
    transform = preprocessing(make_task(pixdim=pixdim), KEYS)
    label = np.random.default_rng(1).choice(np.array([0, 1, 4], np.uint8), (20, 30, 5))
    items = [
        transform(
            {
                "image": write_nifti(f"{axcodes}.nii.gz", scan((20, 30, 5)), axcodes=axcodes),
                "label": write_nifti(f"{axcodes}_label.nii.gz", label, axcodes=axcodes),
            }
        )
        for axcodes in ORIENTATIONS
    ]
    for item in items[1:]:
        torch.testing.assert_close(item["image"].as_tensor(), items[0]["image"].as_tensor(), rtol=0, atol=1e-4)
        assert torch.equal(item["label"].as_tensor(), items[0]["label"].as_tensor())


@pytest.mark.parametrize("pixdim", [(1.0, 1.0), (1.3, 0.8)])
@pytest.mark.parametrize("image_size", [(48, 64), (32, 32)], ids=["padded", "one_axis_padded"])
def test_training_and_inference_see_equal_arrays(
    make_task: MakeTask, write_nifti: WriteNifti, image_size: tuple[int, int], pixdim: tuple[float, float]
) -> None:
    """The slices that the network sees in inference are those of the training dataset."""
    task = make_task(image_size=image_size, pixdim=pixdim, intensity=Intensity("percentile", 1, 99))
    path = write_nifti("a.nii.gz", scan((25, 31, 5)))
    label = write_nifti("a_label.nii.gz", np.zeros((25, 31, 5), np.uint8))
    recorder = Recorder()
    volume = preprocessing(task)({"image": path})["image"]
    slice_inferer(task)(volume[None].as_tensor(), recorder)
    shown = torch.cat(recorder.shown)
    dataset = SliceDataset([{"image": path, "label": label, "case": "a"}], training_preprocessing(task))
    trained = torch.stack([dataset[index]["image"] for index in range(len(dataset))])
    assert trained.shape == (5, 1, *image_size)
    assert torch.equal(shown, trained)


def test_larger_slices_are_cropped_around_their_centre_for_training(
    make_task: MakeTask, write_nifti: WriteNifti
) -> None:
    task = make_task(image_size=(16, 32))
    path = write_nifti("a.nii.gz", scan((40, 20, 3)))
    whole = preprocessing(task)({"image": path})["image"].as_tensor()
    cropped = training_preprocessing(task, ("image",))({"image": path})["image"].as_tensor()
    assert torch.equal(cropped, whole[:, 2:18, 4:36])


def test_label_values_become_classes_on_the_images_grid(make_task: MakeTask, write_nifti: WriteNifti) -> None:
    label = np.random.default_rng(1).choice(np.array([0, 1, 4], np.uint8), (20, 30, 5))
    item = {"image": write_nifti("a.nii.gz", scan((20, 30, 5))), "label": write_nifti("b.nii.gz", label)}
    found = preprocessing(make_task(), KEYS)(item)["label"]
    expected = np.select([label == 1, label == 4], [1, 2])[::-1, ::-1].transpose(1, 0, 2)
    np.testing.assert_array_equal(found[0], expected)


def refusal(transform: Compose, item: dict[str, Path]) -> str:
    """Return the message below MONAI's `applying transform`."""
    with pytest.raises(RuntimeError, match="applying transform") as raised:
        transform(item)
    assert isinstance(raised.value.__cause__, ValueError)
    return str(raised.value.__cause__)


def test_undeclared_label_value_is_refused(make_task: MakeTask, write_nifti: WriteNifti) -> None:
    label = np.zeros((6, 8, 5), np.uint8)
    label[0, 0, 0] = 3
    item = {"image": write_nifti("a.nii.gz", scan((6, 8, 5))), "label": write_nifti("b.nii.gz", label)}
    message = refusal(preprocessing(make_task(), KEYS), item)
    assert "b.nii.gz: expected label values [0, 1, 4], found also [3" in message


def test_label_on_another_grid_is_refused(make_task: MakeTask, write_nifti: WriteNifti) -> None:
    label = write_nifti("b.nii.gz", np.zeros((6, 8, 5), np.uint8), spacing=(1.0, 1.0, 5.0))
    message = refusal(
        preprocessing(make_task(), KEYS), {"image": write_nifti("a.nii.gz", scan((6, 8, 5))), "label": label}
    )
    assert "label b.nii.gz of image a.nii.gz: expected the image's affine" in message


def test_colour_image_keeps_its_rows_columns_and_channels(make_task: MakeTask, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    task = make_task(channels=3, axcodes=None, intensity=Intensity("rgb", 0, 255))
    image = preprocessing(task)({"image": tmp_path / "a.png"})["image"]
    assert image.shape == (3, 30, 20, 1)
    np.testing.assert_allclose(image[..., 0], pixels.transpose(2, 0, 1) / 255, atol=1e-6)


def blob() -> dict[str, torch.Tensor]:
    """Return an ellipse near the first column of a slice of 96 x 96 pixels, the same in image and label."""
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    inside = (((rows - 50) / 18) ** 2 + ((columns - 24) / 9) ** 2 < 1)[None]
    return {"image": inside.float(), "label": inside.to(torch.uint8) * 2}


def test_image_and_label_move_together_and_stay_on_their_side() -> None:
    transform = augmentation().set_random_state(0)
    moved = 0
    for _ in range(25):
        item = transform(blob())
        image, label = torch.as_tensor(item["image"]), torch.as_tensor(item["label"])
        assert image.shape == label.shape == (1, 96, 96)
        assert set(label.unique().tolist()) == {0, 2}
        foreground = image > image.max() / 2
        overlap = (foreground & (label > 0)).sum() / (foreground | (label > 0)).sum()
        assert overlap > 0.85
        assert label.nonzero()[:, 2].float().mean() < 48
        moved += not torch.equal(label, blob()["label"].to(label.dtype))
    assert moved > 12


def test_seed_decides_the_augmentation() -> None:
    first, second, other = (augmentation().set_random_state(seed)(blob())["image"] for seed in (1, 1, 2))
    assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    assert not torch.equal(torch.as_tensor(first), torch.as_tensor(other))


def test_augmentation_of_no_strength_changes_nothing() -> None:
    transform = augmentation(strength=0.0).set_random_state(0)
    for _ in range(8):
        item = transform(blob())
        torch.testing.assert_close(torch.as_tensor(item["image"]), blob()["image"], rtol=0, atol=1e-4)
        assert torch.equal(torch.as_tensor(item["label"]).to(torch.uint8), blob()["label"])


def test_augmentation_without_labels_draws_the_same() -> None:
    both = augmentation().set_random_state(3)(blob())["image"]
    alone = augmentation(("image",)).set_random_state(3)({"image": blob()["image"]})["image"]
    assert torch.equal(torch.as_tensor(both), torch.as_tensor(alone))


def test_views_for_contrast_have_the_tasks_size_and_differ_only_by_seed(make_task: MakeTask) -> None:
    task = make_task(image_size=(32, 48))
    image = torch.rand(1, 32, 48, generator=torch.Generator().manual_seed(0))

    def view(seed: int) -> torch.Tensor:
        return torch.as_tensor(contrastive_augmentation(task).set_random_state(seed)({"image": image})["image"])

    assert view(1).shape == (1, 32, 48)
    assert torch.equal(view(1), view(1)) and not torch.equal(view(1), view(2))


def test_crops_for_contrast_are_anywhere_in_the_image(make_task: MakeTask) -> None:
    rows = torch.linspace(0, 1, 32).reshape(1, 32, 1).expand(1, 32, 48)
    crop_and_fit = Compose(contrastive_augmentation(make_task(), 0.4).transforms[:2]).set_random_state(0)
    views = [torch.as_tensor(crop_and_fit({"image": rows})["image"]) for _ in range(40)]
    assert min(view.min() for view in views) < 0.05 and max(view.max() for view in views) > 0.95
    assert min(view.max() - view.min() for view in views) < 0.6


def views(seed: int) -> torch.Tensor:
    transform = TwoViews(RandGaussianNoised("image", prob=1.0)).set_random_state(seed)
    return transform({"image": torch.zeros(3, 8, 6), "slice": 2})["image"]


def test_two_different_draws_of_one_image() -> None:
    item = {"image": torch.zeros(3, 8, 6), "slice": 2}
    changed = TwoViews(RandGaussianNoised("image", prob=1.0))(item)
    assert changed["image"].shape == (2, 3, 8, 6) and changed["slice"] == 2
    assert not torch.equal(changed["image"][0], changed["image"][1])
    assert item["image"].sum() == 0


def test_the_seed_decides_the_draws() -> None:
    assert torch.equal(views(1), views(1)) and not torch.equal(views(1), views(2))
