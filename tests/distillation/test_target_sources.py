"""Averages of teachers, views and label maps, by values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.distillation.target_sources import (
    VIEWS,
    LabelMaps,
    TargetSources,
    TeacherSource,
    check_confidence,
    describe,
    label_probabilities,
    load_teacher_sources,
    move,
    move_back,
)

LABEL_MAPS = LabelMaps(folder=None, confidence=0.8, sha256="ab" * 32)  # type: ignore[arg-type]  # the folder is not read


class ConstantTeacher(nn.Module):
    """Predicts the same probabilities everywhere."""

    embed_dim = 2

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.register_buffer("probabilities", torch.tensor(probabilities))

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.probabilities.log()[None, :, None, None].expand(len(images), -1, *images.shape[-2:])
        return logits, self.probabilities[:2, None, None].expand(len(images), 2, 2, 2)


class BrightnessTeacher(nn.Module):
    """Looks at single pixels, so that its prediction moves with the image."""

    embed_dim = 1

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([1 - 3 * images, 3 * images], dim=1), F.adaptive_avg_pool2d(images, 2)


class FeaturesOnly(ConstantTeacher):
    """Predicts no classes."""

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return None, torch.zeros(1, 2, 2, 2)  # type: ignore[return-value]


def smooth_image(size: int = 48) -> Tensor:
    """Returns a smooth image (1, 1, H, W) that is 0 near the border."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return torch.exp(-8 * ((x - 0.1) ** 2 + (y + 0.15) ** 2))[None, None]


def test_two_teachers_are_averaged_as_probabilities_and_the_first_gives_features() -> None:
    sources = TargetSources(
        [TeacherSource(ConstantTeacher(0.5, 0.5)), TeacherSource(ConstantTeacher(0.9, 0.1))], None, 2
    )
    average, features = sources(torch.rand(3, 1, 4, 6), [None] * 3)
    expected = torch.tensor([0.7, 0.3])[None, :, None, None].expand(3, 2, 4, 6)
    torch.testing.assert_close(average, expected)
    torch.testing.assert_close(features, torch.full((3, 2, 2, 2), 0.5))
    assert sources.feature_channels == 2


def test_a_label_map_counts_as_one_source_where_there_is_one() -> None:
    sources = TargetSources([TeacherSource(ConstantTeacher(0.5, 0.3, 0.2))], LABEL_MAPS, 3)
    classes = torch.tensor([[[0, 2]]])
    average, _ = sources(torch.rand(2, 1, 1, 2), [classes, None])
    torch.testing.assert_close(
        average[0, :, 0, 0], torch.tensor([0.65, 0.20, 0.15])
    )  # (0.5, 0.3, 0.2), (0.8, 0.1, 0.1)
    torch.testing.assert_close(average[0, :, 0, 1], torch.tensor([0.30, 0.20, 0.50]))
    torch.testing.assert_close(average[1, :, 0, 1], torch.tensor([0.5, 0.3, 0.2]))


def test_label_maps_alone_have_no_features() -> None:
    sources = TargetSources([], LABEL_MAPS, 2)
    average, features = sources(torch.rand(1, 1, 1, 2), [torch.tensor([[[1, 0]]])])
    torch.testing.assert_close(average[0, :, 0], torch.tensor([[0.2, 0.8], [0.8, 0.2]]))
    assert sources.feature_channels == 0 and features.shape == (1, 1, 1, 1) and not features.any()


def test_probabilities_of_a_label_map_sum_to_one() -> None:
    found = label_probabilities(torch.tensor([[[[0, 1, 3]]]]), 4, 0.7)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 1, 3))
    torch.testing.assert_close(found[0, :, 0, 2], torch.tensor([0.1, 0.1, 0.1, 0.7]))


@pytest.mark.parametrize("view", VIEWS[1:])
def test_a_view_is_undone(view: tuple[float, float, float]) -> None:
    image = smooth_image()
    moved = move(image, view)
    back, reached = move_back(moved, view), move_back(torch.ones_like(image), view)
    inside = reached > 0.999
    assert (moved - image).abs().max() > 0.1  # it is another view
    assert inside.float().mean() > 0.75
    torch.testing.assert_close(back[inside], image[inside], rtol=0, atol=0.02)  # twice interpolated


@pytest.mark.parametrize("mirror", [False, True])
def test_views_of_a_teacher_that_moves_with_the_image_change_nothing(mirror: bool) -> None:
    image = smooth_image()
    plain, features = TeacherSource(BrightnessTeacher())(image)
    found, same_features = TeacherSource(BrightnessTeacher(), views=len(VIEWS), mirror=mirror)(image)
    torch.testing.assert_close(found, plain, rtol=0, atol=0.02)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 48, 48))
    assert torch.equal(features, same_features)
    assert plain.std() > 0.1


def test_one_view_is_the_teacher_itself() -> None:
    image = smooth_image()
    logits, _ = BrightnessTeacher().forward_with_embeddings(image)
    assert torch.equal(TeacherSource(BrightnessTeacher())(image)[0], logits.softmax(dim=1))


def test_records_name_what_the_probabilities_depend_on() -> None:
    teacher = TeacherSource(ConstantTeacher(0.5, 0.5), views=3, mirror=True)
    assert teacher.record == {"kind": "teacher", "sha256": teacher.sha256, "views": 3, "mirror": True}
    assert describe(teacher.record) == f"teacher {teacher.sha256[:8]}, 6 views"
    assert describe(LABEL_MAPS.record) == "label maps abababab at 0.8"


def test_no_source_is_refused() -> None:
    with pytest.raises(
        ValueError, match="Expected a source of targets, found none; give --teacher_dirs or --label_maps"
    ):
        TargetSources([], None, 2)


def test_the_same_teacher_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected different teachers in --teacher_dirs, found the same weights twice"):
        TargetSources([TeacherSource(ConstantTeacher(0.5, 0.5)) for _ in range(2)], None, 2)


def test_a_teacher_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a teacher with classes in --teacher_dirs"):
        TeacherSource(FeaturesOnly(0.5, 0.5))(torch.rand(1, 1, 4, 4))


@pytest.mark.parametrize("views", [0, 6])
def test_another_number_of_views_is_refused(views: int) -> None:
    with pytest.raises(ValueError, match=f"Expected --views from 1 to 5, found {views}"):
        TeacherSource(ConstantTeacher(0.5, 0.5), views)


@pytest.mark.parametrize("confidence", [0.25, 1.01, "0.9"])
def test_a_confidence_that_makes_no_map_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"Expected --label_confidence above 0\.25 and up to 1"):
        check_confidence(confidence, 4)
    assert check_confidence(1, 4) == 1


def test_a_folder_read_as_a_number_is_refused(make_task) -> None:  # type: ignore[no-untyped-def]
    assert load_teacher_sources([], make_task()) == load_teacher_sources(None, make_task()) == []
    with pytest.raises(ValueError, match="Expected a path for --teacher_dirs, found 2024"):
        load_teacher_sources([2024], make_task())  # type: ignore[list-item]
