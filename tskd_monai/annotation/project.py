"""The folder of an annotation project: its settings, proposals, training rounds and the latest student.

annotation.json             settings
app/                        the server's own files
proposals/                  what the promptable model proposed
rounds/0001/                labels of a training round, its output folder of `tskd train`, scores of the other images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tskd_monai.files.json_files import is_a, read_json, write_json

SETTINGS, ROUNDS, PROPOSALS, APP = "annotation.json", "rounds", "proposals", "app"
TRAINED, SCORES = "trained", "scores.json"
"""Of a round: output folder of `tskd train`, and the uncertainty of each unlabelled image, written last."""


@dataclass(frozen=True)
class ProjectSettings:
    """Settings of a project, chosen when it is made.

    Attributes:
        labels: names of the structures; their label values are 1, 2, and so on, as viewers number them.
        modality: such as MR or CT; empty: unknown.
        promptable: promptable model, a name of the encoder table.
        weights: its weights: a file, `cached`, or `random` as a control.
        side: side of its input, pixels, a multiple of 16.
        training: further options of `tskd train`, such as `["--preset", "small"]`.

    Raises:
        ValueError: if a setting is not valid; names it.
    """

    labels: tuple[str, ...]
    modality: str = ""
    promptable: str = "lite_medsam"
    weights: str = "cached"
    side: int = 256
    training: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = self.labels
        if not labels or not all(is_a(name, str) and name.strip() for name in labels) or len(set(labels)) < len(labels):
            raise ValueError(f"Expected --labels with a different name for each structure, found {list(labels)}.")
        if "background" in labels:
            raise ValueError("Expected --labels without background, which is always there.")
        if not is_a(self.side, int) or not 16 <= self.side <= 1024 or self.side % 16:
            raise ValueError(f"Expected --size with a multiple of 16 up to 1024, found {self.side!r}.")

    @property
    def values(self) -> dict[str, int]:
        """Label value of each structure by name."""
        return {name: value for value, name in enumerate(self.labels, start=1)}


class AnnotationProject:
    """An annotation project on disk.

    Args:
        folder: its folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its settings are damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        content = read_json(self.folder / SETTINGS)
        known = {field.name for field in fields(ProjectSettings)}
        if not isinstance(content, dict) or set(content) != known:
            raise ValueError(f"Expected the settings {sorted(known)} in {self.folder / SETTINGS}, found others.")
        lists = {name: tuple(content[name]) for name in ("labels", "training")}
        self.settings = ProjectSettings(**{**content, **lists})

    @classmethod
    def make(cls, folder: str | Path, settings: ProjectSettings) -> AnnotationProject:
        """Makes a project, or opens the one that is there.

        Raises:
            ValueError: if that has other labels, whose values saved label maps have.
        """
        folder = Path(folder)
        if (folder / SETTINGS).is_file():
            before = cls(folder).settings
            if before.labels != settings.labels:
                raise ValueError(
                    f"Expected the labels {', '.join(before.labels)} of the project {folder}, found "
                    f"{', '.join(settings.labels)}; leave --labels out, or choose another folder."
                )
        write_json(folder / SETTINGS, asdict(settings))
        return cls(folder)

    @property
    def rounds(self) -> list[Path]:
        """Folders of the training rounds, in order."""
        return sorted((self.folder / ROUNDS).glob("[0-9][0-9][0-9][0-9]"))

    @property
    def finished_rounds(self) -> list[Path]:
        """Folders of the training rounds whose student has scored the unlabelled images, in order."""
        return [folder for folder in self.rounds if (folder / SCORES).is_file()]

    @property
    def student(self) -> Path | None:
        """Bundle of the latest student; None before the first."""
        finished = self.finished_rounds
        return finished[-1] / TRAINED / "student" if finished else None

    @property
    def scores(self) -> Mapping[str, float]:
        """Uncertainty of each image by name, as of the latest round; empty before the first."""
        finished = self.finished_rounds
        return dict(read_json(finished[-1] / SCORES)) if finished else {}

    def next_round(self, record: Mapping[str, object]) -> Path:
        """Returns the folder of the round for these labels: the last one, if it was interrupted, or a new one.

        Args:
            record: what the round is made from; written into a new folder.
        """
        last = self.rounds[-1:]
        if last and last[0] not in self.finished_rounds and read_json(last[0] / "round.json") == record:
            return last[0]
        number = int(last[0].name) + 1 if last else 1
        folder = self.folder / ROUNDS / f"{number:04d}"
        write_json(folder / "round.json", record)
        return folder


def training_commands(python: str, folder: Path, options: Sequence[str]) -> list[list[str]]:
    """Returns the commands of a round: the method on its datalist, then the scores of the unlabelled images.

    Both resume or repeat what was interrupted.

    Args:
        python: interpreter with this project's training extra.
        folder: folder of the round, with `datalist.json` and `images.json`.
        options: further options of `tskd train`.
    """
    trained = folder / TRAINED
    train = [python, "-m", "tskd_monai", "train", str(folder / "datalist.json"), "--output-dir", str(trained)]
    scores = [str(trained / "student"), str(folder / "images.json"), str(folder / SCORES)]
    return [[*train, "--no-test", *options], [python, "-m", "tskd_monai.annotation.uncertainty", *scores]]
