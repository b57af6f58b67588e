"""The stage of targets: its files, an interruption, other sources, what is measured, and what a student reads."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests.distillation.test_refiner import BoxFiller
from tskd_monai.data.task import Task
from tskd_monai.distillation.refiner import Refiner, RefinerSettings
from tskd_monai.distillation.target_cache import LEVELS, TargetCache, load_or_compute_targets
from tskd_monai.distillation.target_images import TargetImage, TargetImages
from tskd_monai.distillation.target_sources import LabelMaps, TeacherSource
from tskd_monai.distillation.targets_folder import MANIFEST_NAME, PROGRESS_NAME, StoredTargets, load_manifest
from tskd_monai.distillation.targets_report import overlap_counts
from tskd_monai.distillation.targets_stage import write_targets
from tskd_monai.distillation.teachers import teacher_or_targets
from tskd_monai.evaluation.report.targets_section import read_targets_table, targets_section
from tskd_monai.files.json_files import read_json, write_json

MakeTask = Callable[..., Task]
SIZE = 32


class BandTeacher(nn.Module):
    """Class 1 where the image is bright, class 2 where it is grey; can stop after some images."""

    embed_dim = 2

    def __init__(self, sharpness: float = 20.0) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        self.seen, self.limit = 0, 1000

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.seen + len(images) > self.limit:
            raise KeyboardInterrupt
        self.seen += len(images)
        centres = torch.tensor([0.0, 1.0, 0.5])[None, :, None, None]
        logits = -self.sharpness * (images - centres).abs()
        return logits, F.adaptive_avg_pool2d(images.repeat(1, 2, 1, 1), 4)


def slices(number: int = 7) -> list[TargetImage]:
    """Returns slices with a bright square, all but the last also with a grey one, and a bit of noise."""
    found = []
    for index in range(number):
        image = 0.02 * torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(index))
        image[:, 4 : 14 + index % 3, 4:14] += 0.9
        image[:, 20:28, 18:28] += 0.0 if index == number - 1 else 0.5
        found.append(TargetImage(image))
    return found


def measured() -> list[TargetImage]:
    """Returns labelled slices of two cases; the label of the bright square has one row less than the image shows."""
    found = []
    for index, item in enumerate(slices(4)):
        label = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
        label[:, 5 : 14 + index % 3, 4:14] = 1
        label[:, 20:28, 18:28] = 2 if index < 3 else 0
        found.append(TargetImage(item.image + 0.001, None, label, case=f"case{index // 2}"))
    return found


@pytest.fixture
def task(make_task: MakeTask) -> Task:
    return make_task(image_size=(SIZE, SIZE))


def refiner(folder: Path | None = None, **changes: Any) -> Refiner:
    settings = RefinerSettings(**{"margin": 0.0, "min_area": 4, **changes})
    return Refiner(BoxFiller(SIZE), "boxes", (SIZE, SIZE), settings, folder)


def make(folder: Path, task: Task, teacher: nn.Module | None = None, **changes: Any) -> None:
    """Writes the targets of all slices."""
    images = TargetImages(changes.pop("transfer", slices()), changes.pop("measured", measured()), None)
    options = {"refiner": refiner(), "batch_size": 2, **changes}
    write_targets(images, [TeacherSource(teacher or BandTeacher())], task, folder, **options)


def content(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of each file but the record, which states times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "record.json"}


def test_targets_json_names_what_made_each_target(tmp_path: Path, task: Task) -> None:
    make(tmp_path, task)
    manifest = read_json(tmp_path / MANIFEST_NAME)
    assert (manifest["task_hash"], manifest["feature_channels"]) == (task.hash, 2)
    assert manifest["sources"] == [TeacherSource(BandTeacher()).record]
    assert manifest["refiner"] == refiner().record
    assert len(manifest["images"]) == 7 and len(manifest["measured"]) == 4
    assert {f"{key}.npz" for key in manifest["images"]} == {path.name for path in tmp_path.glob("*.npz")}
    for entry in manifest["images"].values():
        assert entry["sources"] == [0] and set(entry["refined"]) <= {"liver", "spleen"}
        assert entry["refined"]["liver"] == {"iou": 1.0, "weight": 1.0}  # the square is its box
    assert sum("spleen" in entry["refined"] for entry in manifest["images"].values()) == 6
    assert not (tmp_path / PROGRESS_NAME).exists()
    record = read_json(tmp_path / "record.json")
    assert record["stage"] == "targets" and (record["results"]["images"], record["results"]["measured"]) == (7, 4)


def test_a_student_reads_the_refined_probabilities_and_the_features(tmp_path: Path, task: Task) -> None:
    make(tmp_path, task)
    items = slices()
    stored = StoredTargets(tmp_path, task)
    found = stored.read([item.image for item in items])
    inside = (found[0].foreground.float() / LEVELS) ** 2
    assert (stored.embed_dim, stored.has_features) == (2, True)
    assert inside[0, 4:14, 4:14].min() > 0.999 and inside[0, :3].max() < 0.001
    _, features = BandTeacher().forward_with_embeddings(items[3].image[None])
    assert torch.equal(found[3].features, features[0].half())
    assert any(torch.equal(stored.any_target().foreground, target.foreground) for target in found)


def test_one_teacher_only_gives_its_cache(tmp_path: Path, task: Task) -> None:
    teacher = BandTeacher().eval()
    make(tmp_path, task, teacher, refiner=None, measured=[])
    images = [item.image for item in slices()]
    seen = teacher.seen
    cached = load_or_compute_targets(teacher, images, TargetCache(tmp_path, teacher, task))
    assert teacher.seen == seen
    for own, other in zip(StoredTargets(tmp_path, task).read(images), cached, strict=True):
        assert torch.equal(own.foreground, other.foreground) and torch.equal(own.features, other.features)


@pytest.mark.parametrize("limit", [3, 6, 9])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, task: Task, limit: int) -> None:
    make(tmp_path / "whole", task)
    stopping = BandTeacher()
    stopping.limit = limit
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "parts", task, stopping)
    progress = tmp_path / "parts" / PROGRESS_NAME
    with pytest.raises(FileNotFoundError, match="found targets whose making was interrupted; run targets.yaml"):
        StoredTargets(tmp_path / "parts", task)
    with progress.open("a") as file:
        file.write('{"key": "cut o')  # as a kill leaves it
    done = len(list((tmp_path / "parts").glob("*.npz")))
    resumed = BandTeacher()
    make(tmp_path / "parts", task, resumed)
    assert resumed.seen <= 12 + 7 - done  # finished batches are not run again
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_finished_targets_are_kept_and_new_images_are_added(tmp_path: Path, task: Task) -> None:
    make(tmp_path, task, transfer=slices()[:4])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    make(tmp_path, task)
    assert len(list(tmp_path.glob("*.npz"))) == 7
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    make(tmp_path / "at_once", task)
    assert content(tmp_path) == content(tmp_path / "at_once")


def test_a_damaged_target_is_made_again(tmp_path: Path, task: Task, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, task)
    before = content(tmp_path)
    path = next(tmp_path.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        ValueError, match=f"Expected the target that {MANIFEST_NAME} lists .*{path.name}, found another"
    ):
        StoredTargets(tmp_path, task).read([item.image for item in slices()])
    make(tmp_path, task)
    assert content(tmp_path) == before
    assert f"{path.name} is missing or damaged; its target is made again." in caplog.messages


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"teacher": BandTeacher(10.0)}, "sources"),
        ({"refiner": refiner(iou_bounds=(0.5, 0.9))}, "refiner"),
        ({"refiner": None}, "refiner"),
    ],
)
def test_other_sources_are_refused(tmp_path: Path, task: Task, changes: dict[str, Any], differing: str) -> None:
    make(tmp_path, task)
    before = content(tmp_path)
    told = f"same task and sources in .*/{MANIFEST_NAME}, found another {differing}; choose another --output_dir"
    with pytest.raises(ValueError, match=told):
        make(tmp_path, task, **changes)
    assert content(tmp_path) == before


def test_another_task_is_refused_by_both_sides(tmp_path: Path, task: Task, make_task: MakeTask) -> None:
    make(tmp_path, task)
    other = make_task(image_size=(SIZE, SIZE), pixdim=(2.0, 2.0))
    with pytest.raises(ValueError, match="found another task_hash; choose another --output_dir"):
        make(tmp_path, other)
    with pytest.raises(ValueError, match="Expected targets of task .* at --targets .*, found those of task"):
        StoredTargets(tmp_path, other)


def test_an_image_without_a_target_is_refused(tmp_path: Path, task: Task) -> None:
    make(tmp_path, task)
    images = [slices()[0].image, torch.rand(1, SIZE, SIZE)]
    with pytest.raises(
        ValueError, match="a target of each of 2 images .*, found 1 images without one; run targets.yaml"
    ):
        StoredTargets(tmp_path, task).read(images)


# Label maps.


def with_maps() -> TargetImages:
    """Returns slices whose label maps say that the bright square is the spleen."""
    given = [torch.zeros(1, SIZE, SIZE, dtype=torch.uint8) for _ in range(7)]
    for map_ in given:
        map_[:, 4:14, 4:14] = 2
    items = [TargetImage(item.image, map_) for item, map_ in zip(slices(), given, strict=True)]
    return TargetImages(items, [], LabelMaps(Path("maps"), 0.9, "ab" * 32))


def test_label_maps_need_no_teacher_but_have_no_features(tmp_path: Path, task: Task) -> None:
    write_targets(with_maps(), [], task, tmp_path)
    manifest = load_manifest(tmp_path)
    assert manifest["sources"] == [{"kind": "label_maps", "sha256": "ab" * 32, "confidence": 0.9}]
    stored = teacher_or_targets("no teacher", task, targets=tmp_path)
    assert isinstance(stored, StoredTargets) and not stored.has_features
    target = stored.read([slices()[0].image])[0]
    torch.testing.assert_close((target.foreground[:, 5, 5] / LEVELS) ** 2, torch.tensor([0.05, 0.9]), rtol=0, atol=3e-3)
    with pytest.raises(ValueError, match=r"since --feature_weight is 0\.1, found none.*; give --feature_weight 0"):
        teacher_or_targets("no teacher", task, targets=tmp_path, feature_weight=0.1)


def test_label_maps_and_teachers_are_averaged(tmp_path: Path, task: Task) -> None:
    write_targets(with_maps(), [TeacherSource(BandTeacher(1000.0))], task, tmp_path)
    target = StoredTargets(tmp_path, task).read([slices()[0].image])[0]
    torch.testing.assert_close(
        (target.foreground[:, 5, 5] / LEVELS) ** 2, torch.tensor([0.525, 0.45]), rtol=0, atol=4e-3
    )
    assert {tuple(entry["sources"]) for entry in load_manifest(tmp_path)["images"].values()} == {(0, 1)}


def test_two_maps_of_one_image_are_refused(tmp_path: Path, task: Task) -> None:
    images = with_maps()
    assert images.transfer[0].given is not None
    other = TargetImage(images.transfer[0].image, 0 * images.transfer[0].given)
    twice = TargetImages([*images.transfer, other], [], images.label_maps)
    with pytest.raises(ValueError, match="one label map for an image, found two different ones for two equal slices"):
        write_targets(twice, [], task, tmp_path)


# What is measured and shown.


def test_the_table_has_dice_before_and_after_by_case(tmp_path: Path, task: Task) -> None:
    make(tmp_path, task, refiner=refiner(iou_bounds=(0.0, 0.001)))
    rows = {(row["case"], row["name"]): row for row in read_targets_table(tmp_path / "targets.csv")}
    assert set(rows) == {(case, name) for case in ("case0", "case1") for name in ("liver", "spleen")}
    true, shown = 10 * (9 + 10), 10 * (10 + 11)  # one row more is shown than labelled, on two slices
    assert float(rows["case0", "liver"]["dice_source"]) == pytest.approx(2 * true / (true + shown), abs=1e-6)
    assert rows["case0", "liver"]["dice_target"] == rows["case0", "liver"]["dice_source"]  # squares are their boxes
    assert [rows["case1", "spleen"][name] for name in ("prompted", "replaced", "mixed", "kept")] == ["1", "1", "0", "0"]
    results = read_json(tmp_path / "record.json")["results"]
    with (tmp_path / "targets.csv").open() as file:
        means = [float(row["dice_source"]) for row in csv.DictReader(file)]
    assert results["dice_source"] == pytest.approx(sum(means) / 4, abs=1e-5)


def test_counts_of_overlap() -> None:
    before, after = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[1, 1, 0, 2]])
    label = torch.tensor([[1, 1, 1, 1]])
    assert overlap_counts(before, after, label, ["background", "liver", "spleen"]) == {
        "liver": [2, 2, 2, 2, 4], "spleen": [0, 1, 0, 1, 0]
    }  # fmt: skip


def test_the_report_shows_table_and_sheet(tmp_path: Path, task: Task) -> None:
    make(tmp_path, task)
    sheet = Image.open(tmp_path / "targets.png")
    assert sheet.width > 4 * 240 and sheet.height > 4 * 240  # four measured images
    html = targets_section(tmp_path)
    assert "mean over 2 labelled cases" in html and "<img" in html and "liver" in html
    make(tmp_path / "unmeasured", task, measured=[])
    assert not (tmp_path / "unmeasured" / "targets.csv").exists()
    assert "Soft targets" not in targets_section(tmp_path / "unmeasured")
    (tmp_path / "targets.csv").write_text("case,label\n1,2\n")
    with pytest.raises(ValueError, match=r"Expected the columns .* in .*targets.csv, found no name"):
        targets_section(tmp_path)


def test_embeddings_are_kept_beside_the_targets(tmp_path: Path, task: Task, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make(tmp_path, task, refiner=refiner(tmp_path / "embeddings"))
    assert len(list((tmp_path / "embeddings").glob("*.npy"))) == 11
    assert any(message.startswith("Embeddings: at most 11 of") for message in caplog.messages)
    assert "Targets: 7 images and 4 measured ones, 11 computed now." in caplog.messages


# Damaged lists.


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": {"../x": {}}}, "Expected images and their sources"),
        ({"images": {}}, "Expected images and their sources"),
        ({"format_version": 9}, "Expected format_version 1 in .*, found 9; make the targets again"),
        ({"sources": [{"kind": 1}]}, "Expected kind in .*sources"),
        ({"images": {"0" * 32: {"sha256": 1}}}, "Expected sha256 in .*images 0000"),
        ({"refiner": 3}, "Expected refiner in"),
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, task: Task, change: dict[str, Any], told: str) -> None:
    make(tmp_path, task, measured=[], transfer=slices()[:1])
    write_json(tmp_path / MANIFEST_NAME, {**read_json(tmp_path / MANIFEST_NAME), **change})
    with pytest.raises(ValueError, match=told):
        load_manifest(tmp_path)


def test_a_damaged_line_of_the_progress_is_named(tmp_path: Path, task: Task) -> None:
    make(tmp_path, task, measured=[], transfer=slices()[:1])
    (tmp_path / PROGRESS_NAME).write_text('{"format_version": 1\n{}\n')
    with pytest.raises(ValueError, match=f"Expected JSON in line 1 of .*{PROGRESS_NAME}, found .*; remove this file"):
        make(tmp_path, task)
