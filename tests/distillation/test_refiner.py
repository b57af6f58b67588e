"""Boxes from masks, the gates at their bounds, overlaps, and the cache of embeddings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tskd_monai.distillation.refiner import (
    EmbeddingCache,
    Proposal,
    Refiner,
    RefinerSettings,
    component_box,
    load_refiner,
    mask_iou,
    refiner_image_size,
    weigh,
)

SIZE = 32


class BoxFiller(nn.Module):
    """A promptable model whose mask is the inside of the box; counts the images that it embeds."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.size, self.embedded = size, 0
        self.scale = nn.Parameter(torch.tensor(40.0))
        self.boxes: list[Tensor] = []

    def embed(self, images: Tensor) -> Tensor:
        assert images.shape[-2:] == (self.size, self.size)
        self.embedded += len(images)
        return images[:, :, ::4, ::4]

    def masks(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        self.boxes.append(boxes)
        place = torch.arange(self.size, dtype=torch.float32)
        left, top, right, bottom = (boxes[:, index, None] for index in range(4))
        columns, rows = (place >= left) & (place <= right), (place >= top) & (place <= bottom)
        return self.scale.detach() * ((rows[:, :, None] & columns[:, None]).float() - 0.5)


def target(*boxes: tuple[int, int, int, int], probability: float = 0.9, classes: int = 3) -> Tensor:
    """Returns probabilities (K, H, W): class i + 1 has `probability` in box i (x1 y1 x2 y2), background elsewhere."""
    found = torch.full((classes, SIZE, SIZE), 0.0)
    found[0] = 1
    for class_, (left, top, right, bottom) in enumerate(boxes, start=1):
        found[:, top:bottom, left:right] = 0
        found[class_, top:bottom, left:right] = probability
        found[0, top:bottom, left:right] = 1 - probability
    return found


def refiner(**changes: Any) -> Refiner:
    settings = RefinerSettings(**{"margin": 0.0, "min_area": 4, **changes})
    return Refiner(BoxFiller(), "boxes", (SIZE, SIZE), settings)


IMAGE = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


# Boxes.


def test_a_box_has_the_edges_of_the_largest_component() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:4, 3:5] = True
    mask[10:15, 20:26] = True
    mask[15, 26] = True  # connected across a corner
    assert component_box(mask, 0, 1) == (20, 10, 27, 16)
    assert component_box(mask, 0.1, 1) == pytest.approx((19.3, 9.4, 27.7, 16.6))
    assert component_box(mask, 1.0, 1) == (13, 4, 30, 20)  # cut at the image


def test_a_small_or_empty_mask_has_no_box() -> None:
    mask = np.zeros((8, 8), bool)
    assert component_box(mask, 0, 1) is None
    mask[2:4, 2:4] = True
    assert component_box(mask, 0, 4) == (2, 2, 4, 4)
    assert component_box(mask, 0, 5) is None


def test_prompts_are_pixel_centres_of_the_models_input() -> None:
    model = BoxFiller(size=2 * SIZE)
    Refiner(model, "boxes", (2 * SIZE, 2 * SIZE), RefinerSettings(margin=0.25, min_area=1)).propose(
        IMAGE, target((4, 8, 12, 20)), "key"
    )
    assert model.boxes[0].tolist() == [[3.5, 9.5, 27.5, 45.5]]  # twice the edges 2, 5, 14, 23, less half a pixel


def test_the_models_input_has_the_shape_of_the_task() -> None:
    assert refiner_image_size((128, 128), 256) == (256, 256)
    assert refiner_image_size((96, 192), 256) == (128, 256)
    assert refiner_image_size((192, 64), 256) == (256, 80)
    with pytest.raises(ValueError, match="Expected --refiner_size with a positive multiple of 16, found 250"):
        refiner_image_size((128, 128), 250)


# Gates.


def halves(share: float) -> tuple[Tensor, Proposal, float]:
    """Returns a target and a refined mask within it, of which it fills a share; and their IoU."""
    rows = round(share * 20)
    source = target((4, 4, 14, 24), classes=2)
    refined = torch.zeros(1, SIZE, SIZE)
    refined[0, 4 : 4 + rows, 4:14] = 1.0
    return source, Proposal((1,), refined), rows / 20


@pytest.mark.parametrize(("share", "weight"), [(0.5, 0.0), (0.6, 0.0), (0.7, 0.5), (0.8, 1.0), (1.0, 1.0)])
def test_the_iou_decides_between_source_and_refined(share: float, weight: float) -> None:
    source, proposal, iou = halves(share)
    found, agreements = weigh(source, proposal, (0.6, 0.8))
    assert agreements[1].iou == pytest.approx(iou) and agreements[1].weight == pytest.approx(weight)
    inside = found[:, 5, 5]  # refined to 1 from 0.9
    torch.testing.assert_close(inside, torch.tensor([0.1 * (1 - weight), 0.9 + 0.1 * weight]))
    if share < 1:
        outside = found[:, 23, 5]  # refined to 0 from 0.9
        torch.testing.assert_close(outside, torch.tensor([0.1 + 0.9 * weight, 0.9 * (1 - weight)]))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(SIZE, SIZE))
    assert torch.equal(found, source) or weight > 0


def test_agreement_counts_all_components_of_the_class() -> None:
    source = target((4, 4, 14, 14), classes=2)
    source[:, 20:30, 20:30] = torch.tensor([0.1, 0.9])[:, None, None]  # of the same size; the first is prompted
    found, agreements = refiner()(IMAGE, source, "key")
    assert agreements[1].iou == pytest.approx(0.5) and torch.equal(found, source)


def test_overlapping_classes_share_what_there_is() -> None:
    source = target((4, 4, 14, 14), (14, 4, 24, 14))
    refined = torch.zeros(2, SIZE, SIZE)
    refined[0, 4:14, 4:16] = 1.0  # two columns into the second class
    refined[1, 4:14, 14:24] = 0.5
    found, agreements = weigh(source, Proposal((1, 2), refined), (0.0, 0.5))
    assert [agreement.weight for agreement in agreements.values()] == [1, 0]  # 0.5 is not above 0.5: no mask
    torch.testing.assert_close(found[:, 5, 15], torch.tensor([0.0, 1 / 1.9, 0.9 / 1.9]))
    refined[1, 4:14, 14:24] = 0.6
    found, _ = weigh(source, Proposal((1, 2), refined), (0.0, 0.5))
    torch.testing.assert_close(found[:, 5, 15], torch.tensor([0.0, 1 / 1.6, 0.6 / 1.6]))
    torch.testing.assert_close(found[:, 5, 20], torch.tensor([0.4, 0.0, 0.6]))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(SIZE, SIZE))
    assert found.min() >= 0


def test_only_prompted_classes_change() -> None:
    source = target((4, 4, 14, 14), (20, 20, 21, 21))  # the second is one pixel
    found, agreements = refiner()(IMAGE, source, "key")
    assert set(agreements) == {1}
    torch.testing.assert_close(found[1, 4:14, 4:14], torch.ones(10, 10))
    torch.testing.assert_close(found[2], source[2])


def test_an_image_without_foreground_is_not_embedded() -> None:
    tool = refiner()
    source = target()
    found, agreements = tool(IMAGE, source, "key")
    assert found is source and agreements == {}
    assert tool.model.embedded == 0  # type: ignore[attr-defined]


def test_iou_of_masks() -> None:
    mask = torch.tensor([True, True, False, False])
    assert mask_iou(mask, torch.tensor([False, True, True, False])) == pytest.approx(1 / 3)
    assert mask_iou(mask & ~mask, mask & ~mask) == 0


# Settings and record.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"iou_bounds": (0.9, 0.6)}, r"Expected --iou_bounds with two rising numbers from 0 to 1, found \(0.9, 0.6\)"),
        ({"iou_bounds": 0.6}, "Expected --iou_bounds with two rising numbers from 0 to 1, found 0.6"),
        ({"margin": 3}, "Expected --margin from 0 to 1, a fraction of the box, found 3"),
        ({"min_area": 0}, "Expected --min_area of at least 1 pixel, found 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RefinerSettings(**changes)


def test_the_record_names_model_and_settings() -> None:
    record = refiner(iou_bounds=[0.5, 0.9]).record
    assert len(record.pop("sha256")) == 64
    assert record == {
        "name": "boxes", "image_size": [32, 32], "margin": 0.0, "iou_bounds": [0.5, 0.9], "min_area": 4
    }  # fmt: skip


def test_without_a_name_there_is_no_refiner() -> None:
    assert load_refiner(None, None, (32, 32)) is None


# Embeddings on disk.


def test_an_embedding_is_computed_once_and_gives_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plain, source = refiner(), target((4, 4, 14, 14))
    cached = Refiner(plain.model, "boxes", (SIZE, SIZE), plain.settings, tmp_path / "embeddings")
    for _ in range(2):
        assert torch.equal(cached(IMAGE, source, "key", images=10)[0], plain(IMAGE, source, "key")[0])
    assert plain.model.embedded == 3  # type: ignore[attr-defined]  # twice without the cache, once with it
    assert [path.suffix for path in (tmp_path / "embeddings").iterdir()] == [".npy"]
    sizes = [message for message in caplog.messages if message.startswith("Embeddings")]
    assert sizes == ["Embeddings: at most 10 of 0.0 MB at 32 x 32 pixels, 0.00 GB in all."]


def test_a_damaged_embedding_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EmbeddingCache(tmp_path, "model")
    embedding = torch.rand(2, 4, 4).half()
    cache.write("key", embedding)
    found = cache.read("key")
    assert found is not None and torch.equal(found, embedding)
    assert cache.read("other") is None and EmbeddingCache(tmp_path, "another").read("key") is None
    for damage in (b"", cache.path("key").read_bytes()[:-5]):
        cache.path("key").write_bytes(damage)
        assert cache.read("key") is None
    np.save(cache.path("key"), np.zeros(3))
    assert cache.read("key") is None
    assert sum("is damaged" in message for message in caplog.messages) == 3


def test_a_disk_without_room_is_named_before_it_is_filled(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "embeddings", "model")
    with pytest.raises(ValueError, match=r"Expected .* GB of free disk for the embeddings of 1000000000000 images"):
        cache.check_room(10**12, (SIZE, SIZE), torch.zeros(256, 64, 64).half())
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Expected a folder at --embedding_dir .*file, found a file"):
        EmbeddingCache(tmp_path / "file", "model")
