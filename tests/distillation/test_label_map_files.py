"""Which label map belongs to which image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.distillation.label_map_files import content_sha256, find_label_maps, require_all

ENTRIES = [{"image": "a/scan_0000.nii.gz", "case": "p1"}, {"image": "b/mr.nii", "case": "p2"}]


def folder_of(tmp_path: Path, *names: str) -> Path:
    """Returns a folder of files whose content is their name; the images exist too, as a stem is a file's."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    return folder


def entries_in(tmp_path: Path) -> list[dict[str, str]]:
    """Returns the entries with images that exist."""
    for entry in ENTRIES:
        (tmp_path / entry["image"]).parent.mkdir(exist_ok=True)
        (tmp_path / entry["image"]).write_text("")
    return [{**entry, "image": str(tmp_path / entry["image"])} for entry in ENTRIES]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("p1.nii.gz", "p2.nrrd"),  # by case
        ("p1_seg.nii.gz", "p2_seg.nrrd"),  # as this project segments
        ("scan.nii.gz", "mr.nii.gz"),  # by image, as nnU-Net predicts
        ("scan_0000.mha", "mr.png"),
    ],
)
def test_files_are_found_by_case_or_image(tmp_path: Path, first: str, second: str) -> None:
    folder = folder_of(tmp_path, first, second, "notes.txt")
    assert find_label_maps(folder, entries_in(tmp_path)) == [folder / first, folder / second]


def test_an_image_without_a_map_is_none_or_refused(tmp_path: Path) -> None:
    folder, entries = folder_of(tmp_path, "p2.nii.gz"), entries_in(tmp_path)
    found = find_label_maps(folder, entries)
    assert found == [None, folder / "p2.nii.gz"]
    with pytest.raises(ValueError, match="Expected a label map of each of 2 images .*, found none for case p1; name a"):
        require_all(found, entries, folder)
    assert require_all(found[1:], entries[1:], folder) == [folder / "p2.nii.gz"]


def test_two_maps_of_one_image_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "p1.nii.gz", "p1_seg.nii.gz")
    with pytest.raises(ValueError, match=r"one label map of case p1 .*, found p1.nii.gz and p1_seg.nii.gz; keep one"):
        find_label_maps(folder, entries_in(tmp_path))


def test_one_map_for_two_images_is_refused(tmp_path: Path) -> None:
    folder, entries = folder_of(tmp_path, "p1.nii.gz"), entries_in(tmp_path)
    entries[1]["image"] = str(tmp_path / "c" / "p1.nii.gz")
    (tmp_path / "c").mkdir()
    Path(entries[1]["image"]).write_text("")
    with pytest.raises(ValueError, match=r"a label map for each image, found p1.nii.gz for the cases p1 and p2; name"):
        find_label_maps(folder, entries)


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected a folder of label maps at --label_maps .*maps, found none"):
        find_label_maps(tmp_path / "maps", [])
    with pytest.raises(FileNotFoundError, match="Expected label maps at --label_maps .*, found no image file"):
        find_label_maps(folder_of(tmp_path, "notes.txt"), [])


def test_content_is_hashed_whatever_the_names_are(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, text in zip(paths, ("x", "y", "x"), strict=True):
        path.write_text(text)
    assert content_sha256(paths[:2]) == content_sha256([paths[1], paths[2]])
    assert content_sha256(paths[:2]) != content_sha256(paths)
