"""Label maps read from files for evaluation: integers on a grid whose geometry is checked, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tskd_monai.data.grid import aligned, corner_distance, require_orthogonal, same_grid, voxel_spacing
from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.labels import check_declared, check_label_grid, listed_values, whole_labels
from tskd_monai.data.volume_reader import VolumeReader

LARGEST_VALUE = 2**31 - 1


@dataclass(frozen=True)
class LabelMap:
    """A label map and its grid.

    Attributes:
        array: (H, W, D) integers in the file's own orientation; D = 1 for a 2D image.
        affine: (4, 4) voxel index to world, RAS mm; None for a 2D image file, which has no geometry.
        spacing: mm per voxel along each axis; 1 per pixel for a 2D image file.
        path: the file.
        ignored: voxels (H, W, D) to leave out of metrics, bool; None: there are none.
    """

    array: np.ndarray
    affine: np.ndarray | None
    spacing: tuple[float, float, float]
    path: Path
    ignored: np.ndarray | None = None

    def on(self, shape: tuple[int, ...], affine: np.ndarray | None) -> LabelMap:
        """Returns the map with its axes in the order of another grid, if that makes them one grid (`grid.aligned`).

        Args:
            shape: voxels along the three axes of the other grid.
            affine: affine of the other grid (4, 4); None for a 2D image file.
        """
        if self.affine is None or affine is None:
            return self
        array, moved = aligned(self.array, self.affine, shape, affine)
        ignored = None if self.ignored is None else aligned(self.ignored, self.affine, shape, affine)[0]
        return replace(self, array=array, affine=moved, spacing=voxel_spacing(moved), ignored=ignored)


def load_label_map(path: Path) -> LabelMap:
    """Reads a label map from a NIfTI, NRRD or MetaImage file or a single-channel 2D image file, as training reads it.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file holds more than one label per voxel, fractions, or a sheared grid.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file with a label map at {path}, found none.")
    array, meta = VolumeReader(labels=True).read(path)
    if array.ndim != 3:
        raise ValueError(
            f"Expected one number per pixel in {path}, found shape {array.shape}; save label maps as grey PNG whose "
            "pixel values are the labels."
        )
    if is_image_file(path):
        return LabelMap(_as_integers(array, path), None, (1.0, 1.0, 1.0), path)
    require_orthogonal(meta["affine"], str(path))
    return LabelMap(_as_integers(array, path), meta["affine"], voxel_spacing(meta["affine"]), path)


def load_reference(path: Path, labels: Mapping[int, str], ignore: int | None = None) -> LabelMap:
    """Reads a reference as `load_label_map`, and rejects what training would reject.

    Args:
        path: file of the reference.
        labels: value -> name of the foreground labels.
        ignore: value of voxels to ignore, which become background and are listed in `ignored`; None: there are none.

    Raises:
        ValueError: if it holds a value that is neither a label nor 0, besides the errors of `load_label_map`.
    """
    reference = load_label_map(path)
    declared = (0, *labels)
    ignored = None if ignore is None else reference.array == ignore
    known = np.isin(reference.array, declared)
    check_declared(reference.array, known if ignored is None else known | ignored, declared, str(path))
    if ignored is None:
        return reference
    return replace(reference, array=np.where(ignored, 0, reference.array), ignored=ignored)


def load_prediction(path: Path, reference: LabelMap, labels: Mapping[int, str]) -> LabelMap:
    """Reads a prediction as `load_label_map`, and requires the grid of its reference.

    Args:
        path: file of the prediction.
        reference: reference of the same image.
        labels: value -> name of the foreground labels.

    Raises:
        ValueError: if the grids differ or it holds a value that is neither a label nor 0.
    """
    prediction = load_label_map(path).on(reference.array.shape, reference.affine)
    check_same_grid(prediction, reference)
    unknown = prediction.array[~np.isin(prediction.array, (0, *labels))]
    if unknown.size:
        raise ValueError(
            f"Expected only the labels {sorted(labels)} and 0 in {path}, found {listed_values(unknown)}; "
            "was it predicted for another task?"
        )
    return prediction


def load_second_reader(
    path: Path, reference: LabelMap, labels: Mapping[int, str], ignore: int | None = None
) -> LabelMap:
    """Reads the label map of a second reader as `load_reference`, and requires the grid of the first reader's.

    Args:
        path: file of the second reader's label map.
        reference: the first reader's label map of the same image.
        labels: value -> name of the foreground labels.
        ignore: value of voxels to ignore; None: there are none.

    Raises:
        ValueError: if the grids differ, besides the errors of `load_reference`.
    """
    second = load_reference(path, labels, ignore).on(reference.array.shape, reference.affine)
    names = f"second reader's label {path} beside {reference.path}"
    check_label_grid((reference.array.shape, reference.affine), (second.array.shape, second.affine), names)
    return second


def check_same_grid(prediction: LabelMap, reference: LabelMap) -> None:
    """Raises ValueError unless both maps have the same shape and put each voxel at the same position (`same_grid`)."""
    found, expected = prediction.path, reference.path
    if prediction.array.shape != reference.array.shape:
        raise ValueError(
            f"Expected the shape {reference.array.shape} of {expected} in {found}, found {prediction.array.shape}; "
            "write predictions on the grid of the image they were made for."
        )
    if (prediction.affine is None) != (reference.affine is None):
        raise ValueError(
            f"Expected prediction and reference in the same kind of file, found {found} and {expected}: one has a "
            "geometry (a volume) and the other has none (2D image); write both as the same kind."
        )
    if prediction.affine is None or reference.affine is None:
        return
    shape = reference.array.shape
    if not same_grid(shape, reference.affine, prediction.affine):
        raise ValueError(
            f"Expected the affine of {expected} in {found}, found one that moves a corner of the volume by "
            f"{corner_distance(shape, reference.affine, prediction.affine):.3g} mm; write predictions in the geometry "
            "of their image."
        )


def _as_integers(array: np.ndarray, path: Path) -> np.ndarray:
    whole = whole_labels(array, path.name)
    known = (whole == np.rint(whole)) & (np.abs(whole) <= LARGEST_VALUE)
    if not known.all():
        raise ValueError(
            f"Expected whole numbers as labels in {path}, found {listed_values(whole[~known])} (probabilities?)."
        )
    return whole.astype(np.int32)
