from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.inference.cases import PrefetchingLoader, find_cases, own_shard


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_datalist(folder: Path, *entries: tuple[str, str], section: str = "test") -> Path:
    """Write a datalist with (case, image) entries in one section, and empty files."""
    items: list[dict[str, Any]] = []
    for case, image in entries:
        label = f"labels/{image}"
        touch(folder / image, folder / label)
        items.append({"case": case, "image": image, "label": label})
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": [], section: items}))
    return path


@pytest.mark.parametrize(("name", "expected"), [("a.nii.gz", "a"), ("b.1.nii", "b.1"), ("c.PNG", "c")])
def test_file_is_one_study_named_after_it(tmp_path: Path, name: str, expected: str) -> None:
    touch(tmp_path / name)
    assert find_cases(tmp_path / name) == [{"image": str(tmp_path / name), "name": expected}]


def test_folder_of_files_gives_each_in_order(tmp_path: Path) -> None:
    touch(
        tmp_path / "b.nii",
        tmp_path / "a.nii.gz",
        tmp_path / "notes.txt",
        tmp_path / "._a.nii.gz",
        tmp_path / "sub" / "c.nii",
    )
    assert find_cases(tmp_path) == [
        {"image": str(tmp_path / "a.nii.gz"), "name": "a"},
        {"image": str(tmp_path / "b.nii"), "name": "b"},
    ]


def test_datalist_may_be_a_list_of_images(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "b.nii")
    entries = [str(tmp_path / "a.nii.gz"), {"image": str(tmp_path / "b.nii"), "label": "x"}]
    assert [case["name"] for case in find_cases(datalist=entries)] == ["a", "b"]
    for wrong, message in (
        ([], "paths of images in the list --datalist, found none"),
        ([7], "a path for --datalist, found 7"),
        ([{"label": "x"}], "a path for --datalist, found None"),
    ):
        with pytest.raises(ValueError, match=message):
            find_cases(datalist=wrong)
    with pytest.raises(FileNotFoundError, match=r"at .*c\.nii, found nothing"):
        find_cases(datalist=[str(tmp_path / "c.nii")])


def test_dicom_folder_is_one_study_without_its_folders_name(tmp_path: Path) -> None:
    touch(tmp_path / "Doe^Jane" / "IM0001", tmp_path / "Doe^Jane" / "IM0002.dcm")
    assert find_cases(tmp_path / "Doe^Jane") == [{"image": str(tmp_path / "Doe^Jane")}]


def test_datalist_gives_the_cases_of_the_section(tmp_path: Path) -> None:
    datalist = write_datalist(tmp_path, ("7", "images/x.nii.gz"), ("case.8", "images/y.nii.gz"), section="validation")
    assert find_cases(datalist=datalist, section="validation") == [
        {"image": str(tmp_path / "images/x.nii.gz"), "name": "7"},
        {"image": str(tmp_path / "images/y.nii.gz"), "name": "case.8"},
    ]
    with pytest.raises(ValueError, match="expected entries in `test`, found none"):
        find_cases(datalist=datalist)


def test_images_of_one_case_are_distinguished_by_their_files(tmp_path: Path) -> None:
    datalist = write_datalist(tmp_path, ("7", "left.png"), ("8", "x.png"), ("7", "right.png"))
    assert [study["name"] for study in find_cases(datalist=datalist)] == ["7_left", "8", "7_right"]


def test_image_goes_before_the_datalist(tmp_path: Path) -> None:
    datalist = write_datalist(tmp_path, ("7", "a.nii"))
    touch(tmp_path / "b.nii")
    assert [study["name"] for study in find_cases(tmp_path / "b.nii", datalist)] == ["b"]


def test_files_that_would_overwrite_each_other_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "a.nii", tmp_path / "b.nii")
    with pytest.raises(ValueError, match=r"found \['a'\] more than once; outputs would overwrite"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "entries", [[("7", "left/x.nii"), ("7", "right/x.nii")], [("7", "x.nii"), ("7", "y.nii"), ("7_x", "z.nii")]]
)
def test_entries_that_would_overwrite_each_other_are_refused(tmp_path: Path, entries: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"found \['7_x'\] more than once"):
        find_cases(datalist=write_datalist(tmp_path, *entries))


def test_case_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    datalist = write_datalist(tmp_path, ("siteA/1", "a.nii"), ("siteB/1", "b.nii"))
    with pytest.raises(ValueError, match=r"Expected names without / or \\, found \['siteA/1', 'siteB/1'\]"):
        find_cases(datalist=datalist)


def test_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"image file or a DICOM series folder at .*gone\.nii, found nothing"):
        find_cases(tmp_path / "gone.nii")


def test_neither_image_nor_datalist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected --image .* or --datalist, found neither"):
        find_cases()


def test_list_gives_each_in_its_order(tmp_path: Path) -> None:
    touch(tmp_path / "b.nii", tmp_path / "series" / "IM1", tmp_path / "more" / "a.nii.gz")
    found = find_cases([tmp_path / "b.nii", tmp_path / "series", tmp_path / "more"])
    assert [Path(study["image"]).name for study in found] == ["b.nii", "series", "a.nii.gz"]


def test_name_that_looks_like_a_number_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "2024_01" / "a.nii")
    monkeypatch.setattr(sys, "argv", ["monai", "run", "--image", "2024_01"])
    assert find_cases(202401) == [{"image": "2024_01/a.nii", "name": "a"}]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected a path for --image, found 1, as which the command line reads it"):
        find_cases([1, 2])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="Expected a path for --output_dir, found 7"):
        find_cases(tree=tmp_path, output_dir=7)  # type: ignore[arg-type]


def test_tree_gives_files_and_folders_of_dicom(tmp_path: Path) -> None:
    touch(tmp_path / "top.nii", tmp_path / "Doe" / "t2.nii.gz", tmp_path / "Roe" / "t2.nii.gz", tmp_path / "notes.txt")
    touch(tmp_path / "Poe" / "S1" / "1.dcm", tmp_path / "Poe" / "S2" / "1.dcm", tmp_path / "Poe" / "S3" / "notes")
    found = find_cases(tree=tmp_path, output_dir=tmp_path / "out")
    names = [study.get("name") for study in found]
    assert len(set(names)) == 4 and names[0] == "top" and names.count(None) == 2
    assert not any("oe" in name for name in names if name)
    assert {Path(study["image"]).name for study in found if "name" not in study} == {"S1", "S2"}


def test_name_in_a_tree_stays_when_files_are_added(tmp_path: Path) -> None:
    touch(tmp_path / "Doe" / "t2.nii.gz")
    before = find_cases(tree=tmp_path, output_dir=tmp_path / "out")
    touch(tmp_path / "Roe" / "t2.nii.gz")
    assert before[0] in find_cases(tree=tmp_path, output_dir=tmp_path / "out")


def test_tree_that_is_empty_missing_or_one_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected images or DICOM series in"):
        find_cases(tree=tmp_path, output_dir=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="Expected a folder of cases at .*gone"):
        find_cases(tree=tmp_path / "gone", output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="Expected --image or --tree, found both"):
        find_cases(tmp_path, tree=tmp_path)


def test_name_of_a_folder_in_a_tree_is_no_hash_that_could_be_guessed(tmp_path: Path) -> None:
    touch(tmp_path / "tree" / "Doe" / "t2.nii.gz")
    (first,), (second,) = (find_cases(tree=tmp_path / "tree", output_dir=tmp_path / out) for out in ("a", "b"))
    assert first["name"] != second["name"]
    with pytest.raises(ValueError, match="Expected --output_dir with --tree"):
        find_cases(tree=tmp_path / "tree")


def series(folder: Path, number: int = 1) -> list[Path]:
    """Writes a small DICOM series."""
    voxels = np.zeros((8, 8, 6), np.uint16)
    return list(write_dicom_series(folder, voxels, np.diag([-2.0, -2.0, 4.0, 1.0]), seed=1, series_number=number))


def test_image_file_beside_a_series_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series(tmp_path / "tree" / "Doe")
    touch(tmp_path / "tree" / "Doe" / "preview.png")
    assert find_cases(tmp_path / "tree" / "Doe") == [{"image": str(tmp_path / "tree" / "Doe")}]
    found = find_cases(tree=tmp_path / "tree", output_dir=tmp_path / "out")
    assert found == [{"image": str(tmp_path / "tree" / "Doe")}]
    assert "--tree: left out 1 image file." in caplog.text and "Doe" not in caplog.text


@pytest.mark.parametrize(
    ("where", "file", "kind"),
    [
        (".", "scan.nii.gz", r"1 file\(s\) with a volume"),
        (".", "a.mha", r"1 file\(s\) with a volume"),
        ("below", "preview.png", r"1 2D image file\(s\)"),
    ],
)
def test_folder_of_two_kinds_of_images_is_refused(tmp_path: Path, where: str, file: str, kind: str) -> None:
    series(tmp_path / "7" / where)
    touch(tmp_path / "7" / file)
    with pytest.raises(ValueError, match=f"Expected images of one kind in .*, found {kind} beside a DICOM series"):
        find_cases(tmp_path / "7")


def test_what_a_folder_leaves_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "Doe.nii", tmp_path / "Doe_seg.nii.gz", tmp_path / "Doe.bin", tmp_path / "more" / "a.nii")
    assert [study["name"] for study in find_cases(tmp_path)] == ["Doe"]
    assert "--image: left out 1 other file, 1 earlier segmentation, 1 subfolder." in caplog.text
    assert "Doe" not in caplog.text


def test_segmentation_of_an_earlier_run_is_an_image_only_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "0a1b2c3d_seg.nii.gz"
    touch(path)
    assert [study["name"] for study in find_cases(path)] == ["0a1b2c3d_seg"]
    with pytest.raises(FileNotFoundError, match="found only 1 earlier segmentation; name a file to segment it"):
        find_cases(tmp_path)


def test_outputs_inside_a_tree_are_no_studies(tmp_path: Path) -> None:
    touch(tmp_path / "P1" / "t2.nii.gz")
    first = find_cases(tree=tmp_path, output_dir=tmp_path)
    touch(tmp_path / f"{first[0]['name']}_seg.nii.gz", tmp_path / "records" / "x.png", tmp_path / "private" / "x.png")
    assert find_cases(tree=tmp_path, output_dir=tmp_path) == first


def test_series_spread_over_folders_of_a_tree_is_one_study(tmp_path: Path) -> None:
    (tmp_path / "tree" / "P1" / "B").mkdir(parents=True)
    for path in series(tmp_path / "tree" / "P1" / "A")[3:]:
        path.rename(tmp_path / "tree" / "P1" / "B" / path.name)
    found = find_cases(tree=tmp_path / "tree", output_dir=tmp_path / "out")
    assert found == [{"image": str(tmp_path / "tree" / "P1")}]


def test_closed_folder_of_a_tree_is_a_study_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "tree" / "t2.nii.gz")

    def walk(top: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        onerror(PermissionError(13, "Permission denied", str(top / "closed")))
        yield str(top), [], ["t2.nii.gz"]

    monkeypatch.setattr("tskd_monai.inference.cases.os.walk", walk)
    found = find_cases(tree=tmp_path / "tree", output_dir=tmp_path / "out")
    assert [Path(study["image"]).name for study in found] == ["t2.nii.gz", "closed"]


def test_tree_of_reports_only_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path / "notes.bin", tmp_path / "P1" / "viewer.bin")
    with pytest.raises(FileNotFoundError, match="Expected images or DICOM series in .*, found 2 other files; check"):
        find_cases(tree=tmp_path, output_dir=tmp_path / "out")


@pytest.mark.parametrize("case", ["=1+1", "@SUM(A1)", "-1", "a\nb"])
def test_name_that_a_spreadsheet_would_evaluate_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as formulas of a spreadsheet do, found|expected a printable text"):
        find_cases(datalist=write_datalist(tmp_path, (case, "a.nii")))


def test_a_single_process_has_all_cases() -> None:
    studies = [{"image": "a"}, {"image": "b"}]
    assert own_shard(studies) == studies


class Numbers(Dataset[torch.Tensor]):
    """Ten numbers; reading one fails, and each read is recorded."""

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.read: list[int] = []
        self.second = threading.Event()

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        if index == self.failing:
            raise ValueError(f"damaged: {index}")
        self.read.append(index)
        if index == 1:
            self.second.set()
        return torch.tensor(index)


def test_batches_come_in_order_and_again() -> None:
    loader = PrefetchingLoader(Numbers(), batch_size=3)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_the_next_batch_is_read_while_one_is_worked_on() -> None:
    numbers = Numbers()
    batches = iter(PrefetchingLoader(numbers, batch_size=1))
    next(batches)
    assert numbers.second.wait(timeout=30)
    batches.close()  # type: ignore[attr-defined]
    assert numbers.read == [0, 1]


def test_an_error_is_raised_at_its_batch() -> None:
    found: list[int] = []
    batches = PrefetchingLoader(Numbers(failing=4), batch_size=1)
    with pytest.raises(ValueError, match="damaged: 4"):
        found.extend(int(batch) for batch in batches)
    assert found == [0, 1, 2, 3]
