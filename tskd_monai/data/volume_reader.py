"""One reader for all images of a datalist: NIfTI, NRRD, MetaImage or 2D image file, DICOM series folder."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import ImageReader
from monai.transforms import LoadImaged
from monai.utils import SpaceKeys

from tskd_monai.data.dicom.geometry import REFUSE, check_irregular
from tskd_monai.data.dicom.header import DICOM_SUFFIXES
from tskd_monai.data.dicom.reader import DicomSeries, read_series
from tskd_monai.data.dicom.seg_source import source_files
from tskd_monai.data.dicom.series import series_hash
from tskd_monai.data.image_file import IMAGE_SUFFIXES, read_image_file, read_label_file
from tskd_monai.data.itk_file import ITK_SUFFIXES, read_itk
from tskd_monai.data.nifti import NIFTI_SUFFIXES, read_nifti
from tskd_monai.data.output_names import IMAGE_ENDINGS

MILLIMETRES, PIXELS = "mm", "pixels"


def load_image_transform(
    keys: KeysCollection,
    *,
    series_uid: str | None = None,
    irregular: str = REFUSE,
    allow_missing_keys: bool = False,
) -> LoadImaged:
    """Returns the transform that reads the images of a datalist with `VolumeReader` only.

    With `LoadImaged(reader=...)`, a reader's exceptions become text inside another one, and MONAI continues with its
    own readers. Registered last, this reader is tried first, accepts every file, and its exceptions propagate. A path
    is used unchanged: a leading `~` is part of the name.

    Args:
        keys: keys of the items to read.
        series_uid: SeriesInstanceUID to read from a DICOM folder with several series.
        irregular: treatment of gantry tilt and single missing slices, `refuse` or `resample`.
        allow_missing_keys: skip absent keys.
    """
    with warnings.catch_warnings():
        # MONAI builds all its readers to register them; one warns that it has no GPU decoder. None of them is used.
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        transform = LoadImaged(keys, reader=None, allow_missing_keys=allow_missing_keys, expanduser=False)
    transform.register(VolumeReader(series_uid, irregular))
    return transform


def load_label_transform(keys: KeysCollection, *, allow_missing_keys: bool = False) -> LoadImaged:
    """Returns the transform that reads label maps, with the numbers that a file stores.

    Args:
        keys: keys of the items to read.
        allow_missing_keys: skip absent keys.
    """
    transform = load_image_transform(keys, allow_missing_keys=allow_missing_keys)
    transform.register(VolumeReader(labels=True))
    return transform


class VolumeReader(ImageReader):
    """Reads any supported image as float32 with three spatial axes.

    NIfTI, NRRD and MetaImage give (X, Y, Z), a DICOM series (columns, rows, slices), a 2D image file (rows, columns, 1)
    with a trailing channel axis of three for RGB. All formats have the same metadata keys, so that their images can
    share a batch: `affine` and `original_affine` (to RAS mm; identity for 2D image files), `unit` of the spacing (`mm`,
    or `pixels` for 2D image files), `spatial_shape`, `original_channel_dim`, `space`, `modality`, `series_uid`,
    `series_hash` and `series_files` (empty unless DICOM), and `irregular` as given here.

    Args:
        series_uid: SeriesInstanceUID to read from a DICOM folder with several series.
        irregular: treatment of gantry tilt and single missing slices of a DICOM series: `refuse`, or `resample` to a
            regular orthogonal grid with a warning.
        labels: whether the files are label maps: of a 2D image with a palette, the index is read instead of the colour.

    Raises:
        ValueError: when `irregular` is neither.
    """

    def __init__(self, series_uid: str | None = None, irregular: str = REFUSE, labels: bool = False) -> None:
        check_irregular(irregular)
        self.labels = labels
        self.series_uid = series_uid
        self.irregular = irregular

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Returns True: `read` refuses unreadable files instead of passing them to another reader."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the array and the metadata of one image.

        Args:
            data: one path, or a sequence of one.
            kwargs: part of MONAI's interface; no option is supported.

        Raises:
            FileNotFoundError: when the path does not exist, or the folder holds no DICOM image.
            TypeError: when an option is given.
            ValueError: when several paths are given, or the image is refused.
        """
        if kwargs:
            raise TypeError(f"Expected no reader options, found {sorted(kwargs)}; remove them.")
        paths = [data] if isinstance(data, (str, Path)) else list(data)  # type: ignore[arg-type]
        if len(paths) != 1:
            raise ValueError(
                f"Expected one path per image, found {len(paths)}; name the folder of a DICOM series, "
                "and give images of several channels as separate cases."
            )
        return self._read_path(Path(paths[0]))

    def get_data(  # type: ignore[override]
        self, img: tuple[np.ndarray, dict[str, Any]]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Returns array and metadata from `read` for MONAI's interface; the array is a tensor in the same memory.

        MONAI would first copy an array to C order: 2 s for a CT whose files hold one slice after the other.
        """
        return torch.from_numpy(img[0]), img[1]

    def _read_path(self, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
        name = path.name.lower()
        if path.is_dir():
            series = _read_folder(path, self.series_uid, self.irregular)
            metadata = self._metadata(series.voxels, series.affine, series)
            return series.voxels, {**metadata, "series_files": source_files(series.grid, path)}
        if name.endswith(NIFTI_SUFFIXES):
            voxels, affine = read_nifti(path)
            return voxels, self._metadata(voxels, affine)
        if name.endswith(ITK_SUFFIXES):
            voxels, affine = read_itk(path)
            return voxels, self._metadata(voxels, affine)
        if name.endswith(IMAGE_SUFFIXES):
            pixels = read_label_file(path) if self.labels else read_image_file(path)
            return pixels, {**self._metadata(pixels, np.eye(4)), "unit": PIXELS}
        if not path.exists():
            raise FileNotFoundError(f"Expected an image at {path}, found nothing; check the path in the datalist.")
        advice = "name the folder of the series" if name.endswith(DICOM_SUFFIXES) else "convert it, or name its folder"
        if self.labels and name.endswith(DICOM_SUFFIXES):
            advice = "tskd plan writes the label maps of a DICOM SEG or RTSTRUCT, and a datalist of them"
        raise ValueError(
            f"Expected a file ending in {', '.join(IMAGE_ENDINGS)} or a folder with a DICOM series, "
            f"found {path.name}; {advice}."
        )

    def _metadata(self, array: np.ndarray, affine: np.ndarray, series: DicomSeries | None = None) -> dict[str, Any]:
        """Returns the metadata that MONAI's transforms and writers use, and the identity of the series."""
        # Without a UID the voxels are the identity: a hash of the folder, which may be named after the patient, could
        # be reversed by trying names.
        identity = "" if series is None else series.uid or hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        return {
            "affine": affine.copy(),
            "original_affine": affine.copy(),
            "spatial_shape": np.array(array.shape[:3]),
            "original_channel_dim": float("nan") if array.ndim == 3 else -1,
            "space": SpaceKeys.RAS,
            "unit": MILLIMETRES,
            "modality": str(series.grid.headers[0].get("Modality") or "") if series else "",
            "series_uid": series.uid if series else "",
            "series_hash": series_hash(identity) if series else "",
            "series_files": "",
            "irregular": self.irregular,
        }


def _read_folder(folder: Path, series_uid: str | None, irregular: str) -> DicomSeries:
    """Returns the series of a folder; an error, unlike a log record, names the folder."""
    try:
        return read_series(folder, series_uid, irregular)
    except ValueError as error:
        if str(folder) in str(error):
            raise
        raise ValueError(f"{error} (In {folder}.)") from error
