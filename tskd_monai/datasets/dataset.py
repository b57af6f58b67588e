"""A public dataset as it is found in a download: its description, and the samples to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Description:
    """A public dataset in words and numbers, which its datalist repeats.

    Attributes:
        name: of the datalist.
        title: in full, with the structures that the labels show.
        modality: such as CT, MR or US.
        channels: of its images, 1 for grey and 3 for colour.
        labels: name of each label value, background first.
        licence: under which the data may be used.
        reference: where the data and their terms are.
        patients: how `case` is known.
        split: which sections are official and which are drawn.
        official_images: labelled images in the whole download; None where it depends on the task.
        official_patients: patients of these images; None likewise.
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
    """A file to write, and what it is made from.

    Attributes:
        path: relative to the prepared folder, with forward slashes.
        source: file or folder of the download that messages name.
        write: writes the file to the path it is given.
    """

    path: str
    source: Path
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Sample:
    """One image of a dataset with its labels.

    Attributes:
        case: the patient.
        image: of the sample.
        label: its label map; None for an image without one.
        second_reader: the label map of another reader of the same image.
        official: the section that the dataset's authors put it in, `training`, `validation` or `test`; None where
            they put it in none.
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
        """Returns what the datalist says of the sample."""
        return {**{key: file.path for key, file in self.files().items()}, "case": self.case}


@dataclass(frozen=True)
class PublicDataset:
    """A dataset as it was found.

    Attributes:
        description: of the dataset.
        samples: in a fixed order, labelled and unlabelled.
    """

    description: Description
    samples: tuple[Sample, ...]
