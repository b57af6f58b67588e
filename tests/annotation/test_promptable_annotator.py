from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tskd_monai.annotation.promptable_annotator import PromptableAnnotator
from tskd_monai.annotation.prompts import read_prompts
from tskd_monai.annotation.propagation import PropagationSettings
from tskd_monai.annotation.slice_view import SlicedImage, read_sliced_image
from tskd_monai.data.nifti import read_nifti, write_nifti
from tskd_monai.datasets.phantom.render import make_grid
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json
from tskd_monai.networks.promptable import build_promptable

SIZE = 64
SHAPE, LABELS = (32, 24, 7), {"liver": 1, "spleen": 4}


class BrightInBox(nn.Module):
    """A promptable model that finds what is bright in the box, or around the foreground points."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.embedded = (SIZE, SIZE), 0
        self.weight = nn.Parameter(torch.ones(1))

    def embed(self, images: Tensor) -> Tensor:
        self.embedded += len(images)
        return images[:, :1]

    def masks(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
    ) -> Tensor:
        if boxes is None:
            assert points is not None and point_labels is not None
            boxes = torch.cat([points[:, 0] - 20, points[:, 0] + 20], 1)
        place = torch.arange(SIZE)
        columns = (place >= boxes[:, 0, None]) & (place <= boxes[:, 2, None])
        rows = (place >= boxes[:, 1, None]) & (place <= boxes[:, 3, None])
        return 10 * ((embedding[0] > 0.5) & rows[:, :, None] & columns[:, None]).float() - 5


@pytest.fixture
def image(tmp_path: Path) -> SlicedImage:
    """A scan with a bright block on slices 1 to 4, and one beside it on slice 5 only."""
    volume = np.zeros(SHAPE, np.float32)
    volume[4:14, 6:16, 1:5], volume[20:28, 6:16, 5] = 1, 1
    write_nifti(tmp_path / "scan.nii.gz", volume, make_grid(SHAPE, (2.0, 2.0, 6.0), "LAI").matrix)
    return read_sliced_image(tmp_path / "scan.nii.gz")


def ask(image: SlicedImage, annotator: PromptableAnnotator, *prompts: dict[str, object]) -> object:
    return annotator.annotate(image, read_prompts({"prompts": list(prompts)}, LABELS, image.view.viewer_shape))


def test_a_box_on_one_slice_gives_the_structure_on_all(image: SlicedImage) -> None:
    model = BrightInBox()
    annotator = PromptableAnnotator(model)
    found = ask(image, annotator, {"label": "spleen", "roi": [3, 14, 5, 16, 2, 2]})
    expected = np.zeros(SHAPE)
    expected[4:14, 6:16, 1:5] = 4
    np.testing.assert_array_equal(found.label_map, expected)
    # the third array axis points to inferior, slices are counted to superior
    assert found.marked == (4,) and found.filled == (2, 3, 5) and found.label_map.dtype == np.uint16
    before = model.embedded
    ask(image, annotator, {"label": "liver", "foreground": [[9, 10, 3]]})
    assert model.embedded == before  # of this image's slices, all that are needed are cached


def test_structures_share_a_slice_and_points_outside_state_that_there_is_none(image: SlicedImage) -> None:
    annotator = PromptableAnnotator(BrightInBox(), PropagationSettings(max_slices=0))
    found = ask(
        image, annotator,
        {"label": "spleen", "roi": [3, 14, 5, 16, 2, 2]},
        {"label": "liver", "foreground": [[24, 10, 5]]},
        {"label": "liver", "background": [[1, 1, 0]]},
    )  # fmt: skip
    assert {int(value) for value in np.unique(found.label_map)} == {0, 1, 4}
    assert (found.label_map[..., 5] == 1).sum() == 80 and not found.label_map[..., 0].any()
    assert found.marked == (1, 4, 6) and found.filled == ()


def test_a_box_across_slices_is_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "coronal.nii.gz", np.zeros((9, 9, 9), np.float32), np.diag([1.0, 6.0, 1.0, 1.0]))
    image = read_sliced_image(tmp_path / "coronal.nii.gz")
    with pytest.raises(ValueError, match=r"one slice of coronal.nii.gz, found one from slice 1 to 7"):
        ask(image, PromptableAnnotator(BrightInBox()), {"label": "liver", "roi": [1, 7, 1, 7, 4, 4]})


def test_a_model_with_another_input_is_refused() -> None:
    model = BrightInBox()
    model.image_size = (64, 48)
    with pytest.raises(ValueError, match="square input, found 64 x 48"):
        PromptableAnnotator(model)


def test_a_real_model_gives_labels_on_the_images_grid(image: SlicedImage, tmp_path: Path) -> None:
    model = build_promptable("lite_medsam", "random", SIZE, seed=1)
    annotator = PromptableAnnotator(model, PropagationSettings(max_slices=1), embedding_dir=tmp_path / "embeddings")
    box = {"label": "liver", "roi": [3, 14, 5, 16, 2, 2], "foreground": [[9, 10, 2]], "background": [[0, 0, 2]]}
    found = ask(image, annotator, box)
    assert found.label_map.shape == SHAPE and set(np.unique(found.label_map)) <= {0, 1}
    assert len(list((tmp_path / "embeddings").iterdir())) >= 1
    again = ask(image, PromptableAnnotator(model, PropagationSettings(max_slices=1)), box)
    np.testing.assert_array_equal(again.label_map, found.label_map)


@pytest.mark.slow
def test_a_box_on_one_slice_of_the_phantom_gives_its_liver(lite_medsam_weights: Path, tmp_path: Path) -> None:
    write_study(tmp_path, sections={"training": 1}, shape=(64, 64, 8), spacing=(5.4, 5.4, 20.0))
    datalist = read_json(tmp_path / "datalist.json")
    entry = datalist["training"][0]
    image = read_sliced_image(tmp_path / entry["image"])
    truth = read_nifti(tmp_path / entry["label"])[0] == 1
    slices = np.flatnonzero(truth.any((0, 1)))
    z = int(slices[len(slices) // 2])
    x, y = np.nonzero(truth[..., z])
    box = {"label": "liver", "roi": [int(n) for n in (x.min(), x.max(), y.min(), y.max(), z, z)]}
    model = build_promptable("lite_medsam", lite_medsam_weights, 128)
    found = ask(image, PromptableAnnotator(model), box).label_map == 1
    marked = 2 * (found & truth)[..., z].sum() / (found[..., z].sum() + truth[..., z].sum())
    assert marked > 0.8 and len(np.flatnonzero(found.any((0, 1)))) > 1
