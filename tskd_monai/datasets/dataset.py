"""A public dataset as found in a download: its description, and the samples to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Description:
    """Metadata of a public dataset, copied into its datalist.

    Attributes:
        name: name of the datalist.
        title: full title, with the structures that are labelled.
        modality: modality, such as CT, MR or US.
        channels: number of image channels: 1 for grey and 3 for colour.
        labels: name of each label value, background first.
        licence: licence of the data.
        reference: address of the data and their terms.
        patients: how `case` is determined.
        split: which sections are official and which are drawn.
        official_images: number of labelled images in the complete download; None if it depends on the task.
        official_patients: number of patients of these images; None if it depends on the task.
    """

    name: str
    title: str
    modality: str
    channels: int
    labels: Mapping[int, str]
    licence: str
    reference: str
    patients: str
    split: str
    official_images: int | None = None
    official_patients: int | None = None


@dataclass(frozen=True)
class OutputFile:
    """A file to write, and its source.

    Attributes:
        path: relative to the prepared folder, with forward slashes.
        source: file or folder of the download, for messages.
        write: writes the file to a given path.
    """

    path: str
    source: Path
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Sample:
    """One image of a dataset with its labels.

    Attributes:
        case: id of the patient.
        image: image file of the sample.
        label: its label map; None for an image without one.
        second_reader: the label map of another reader of the same image.
        official: section assigned by the authors of the dataset, `training`, `validation` or `test`; None if they
            assigned none.
    """

    case: str
    image: OutputFile
    label: OutputFile | None = None
    second_reader: OutputFile | None = None
    official: str | None = None

    def files(self) -> dict[str, OutputFile]:
        """Returns the files of the sample by their key in the datalist, the image first."""
        files = {"image": self.image, "label": self.label, "second_reader": self.second_reader}
        return {key: file for key, file in files.items() if file is not None}

    def entry(self) -> dict[str, str]:
        """Returns the datalist entry of the sample."""
        return {**{key: file.path for key, file in self.files().items()}, "case": self.case}


@dataclass(frozen=True)
class PublicDataset:
    """A dataset as found in a download.

    Attributes:
        description: metadata of the dataset.
        samples: labelled and unlabelled samples, in a fixed order.
    """

    description: Description
    samples: tuple[Sample, ...]
