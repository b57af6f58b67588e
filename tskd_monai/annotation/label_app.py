"""The annotation project as an app of MONAI Label; runs in the server's environment, see `tskd annotate`.

Models: `boxes` (boxes and points to masks) and `student`, once the first round has trained one. Trainer: `student`.
Strategies: `uncertainty` and `random`. Whatever MONAI Label does not need to know is in the modules beside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monai.bundle import run
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.random import Random
from PIL import Image

from tskd_monai.annotation.confirmed import Proposals, confirmed_slices, read_saved_label
from tskd_monai.annotation.project import PROPOSALS, AnnotationProject, training_commands
from tskd_monai.annotation.promptable_annotator import PromptableAnnotator
from tskd_monai.annotation.prompts import read_prompts
from tskd_monai.annotation.round_datalist import LabelledImage, check_enough, round_datalist
from tskd_monai.annotation.slice_view import read_sliced_image
from tskd_monai.annotation.uncertainty import choose_next
from tskd_monai.data.nifti import write_nifti
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.promptable import build_promptable

FINAL, CONFIRMED, LISTED = "final", "slices", "confirmed_slices"
PYTHON = "TSKD_PYTHON"
"""Variable with the interpreter that trains: that of `tskd annotate`."""


@contextmanager
def refusals() -> Iterator[None]:
    """Turns an error of the user into a reply that viewers show, in one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise HTTPException(400, " ".join(str(error).split())) from error


class AnnotationApp(MONAILabelApp):
    """MONAI Label's app of an annotation project.

    Args:
        app_dir: folder of the app, which is in that of the project.
        studies: folder of images, or address of a DICOMweb server.
        conf: settings of the server.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.project = AnnotationProject(Path(app_dir).parent)
        self.proposals = Proposals(self.project.folder / PROPOSALS)
        super().__init__(app_dir, studies, conf, "tskd annotate", "Boxes to labels to a small student")

    def init_datastore(self) -> Any:
        """Returns the server's datastore; final labels are checked, and recorded with their confirmed slices."""
        datastore = super().init_datastore()
        save, values = datastore.save_label, [0, *self.project.settings.values.values()]

        def save_checked(image_id: str, file: str, tag: str, info: dict[str, Any], *rest: Any) -> Any:
            info = dict(info or {})
            if tag == FINAL:
                image = datastore.get_image_uri(image_id)
                with refusals():
                    if not image:
                        raise ValueError(f"Expected an image of the datastore, found {image_id}.")
                    saved = read_saved_label(image, file, values)
                    slices = confirmed_slices(saved, self.proposals.read(image), info.get(LISTED))
                info = {key: value for key, value in info.items() if key not in (LISTED, CONFIRMED)}
                info |= {} if slices is None else {CONFIRMED: slices}
            return save(image_id, file, tag, info, *rest)

        datastore.save_label = save_checked
        return datastore

    def init_infers(self) -> dict[str, InferTask]:
        """Returns the models."""
        return {"boxes": BoxesTask(self.project, self.proposals), "student": StudentTask(self.project)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Returns the trainer of the student."""
        return {"student": RoundTask(self.project)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Returns the choices of the next image."""
        return {"uncertainty": UncertaintyStrategy(self.project), "random": Random()}


class BoxesTask(InferTask):
    """The promptable model; loaded with the first request.

    Args:
        project: the project.
        proposals: where proposals are kept until the label is saved.
    """

    def __init__(self, project: AnnotationProject, proposals: Proposals) -> None:
        self.project, self.proposals = project, proposals
        settings = project.settings
        text = f"Boxes or points on a slice to masks, with {settings.promptable}"
        super().__init__(InferType.DEEPGROW, settings.values, 3, text)

    @cached_property
    def annotator(self) -> PromptableAnnotator:
        """The model with its cache of embeddings."""
        settings = self.project.settings
        return PromptableAnnotator(build_promptable(settings.promptable, settings.weights, settings.side))

    def is_valid(self) -> bool:
        """Returns True: the model is loaded with the first request."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Returns a file and what it is: a mask of one structure, or the label map of `prompts`."""
        with refusals():
            settings = self.project.settings
            image = read_sliced_image(request["image"], settings.modality)
            prompts = read_prompts(request, settings.values, image.view.viewer_shape)
            found = self.annotator.annotate(image, prompts)
            labels = sorted({prompt.label for prompt in prompts})
            self.proposals.add(str(request["image"]), found.label_map, found.marked, labels)
        # Viewers take a reply about one structure for a mask of ones.
        label_map = found.label_map if "prompts" in request else (found.label_map > 0).astype(np.uint8)
        file = write_result(label_map, image.view.affine, image.view.flat)
        return file, {"label_names": settings.values, "marked": found.marked, "filled": found.filled}


class StudentTask(InferTask):
    """The student of the latest round, run as `python -m monai.bundle run` runs it.

    Args:
        project: the project.
    """

    def __init__(self, project: AnnotationProject) -> None:
        self.project = project
        super().__init__(InferType.SEGMENTATION, project.settings.values, 3, "The student of the latest training round")

    def is_valid(self) -> bool:
        """Returns whether there is a student."""
        return self.project.student is not None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Returns the file of the label map."""
        student = self.project.student
        with refusals(), tempfile.TemporaryDirectory() as folder:
            if student is None:
                raise ValueError("Expected a trained student, found none yet; save labels and train one.")
            run(
                config_file=str(student / "configs" / "inference.json"),
                bundle_root=str(student),
                image=str(request["image"]),
                output_dir=folder,
                device="cpu",
                logging_file=False,  # type: ignore[arg-type]  # as on the command line
            )
            (found,) = Path(folder).rglob("*_seg.*")
            file = _temporary(found.name[found.name.index("_seg.") + 4 :])
            shutil.move(found, file)
        return file, {"label_names": self.project.settings.values}


class RoundTask(TrainTask):
    """A training round on the saved labels, in a process of the interpreter that can train; an interrupted one resumes.

    Args:
        project: the project.
    """

    def __init__(self, project: AnnotationProject) -> None:
        super().__init__("Teacher with LoRA on the confirmed slices, distilled into a student on all images")
        self.project = project

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Runs a round and returns its number.

        Raises:
            RuntimeError: if it fails; its messages are those of the task.
        """
        folder = self._prepare(datastore)
        for command in training_commands(os.environ[PYTHON], folder, self.project.settings.training):
            print("$", *command, flush=True)  # noqa: T201
            done = subprocess.run(command, stderr=subprocess.STDOUT, env=training_environment(os.environ))
            if done.returncode:
                raise RuntimeError(f"{' '.join(command[2:4])} ended with exit code {done.returncode}.")
        return {"round": int(folder.name)}

    def _prepare(self, datastore: Any) -> Path:
        """Writes the datalist of a round with a copy of its labels, and returns its folder."""
        settings, labelled = self.project.settings, []
        record: dict[str, Any] = {}
        for image_id in sorted(datastore.get_labeled_images()):
            label = Path(datastore.get_label_uri(image_id, FINAL))
            slices = datastore.get_label_info(image_id, FINAL).get(CONFIRMED)
            labelled.append(LabelledImage(Path(datastore.get_image_uri(image_id)), label, slices))
            record[image_id] = [file_sha256(label), slices]
        check_enough(labelled)
        unlabelled = {image_id: datastore.get_image_uri(image_id) for image_id in datastore.get_unlabeled_images()}
        folder = self.project.next_round({"labels": record, "unlabelled": sorted(unlabelled)})
        (folder / "labels").mkdir(exist_ok=True)
        copies = [one._replace(label=Path(shutil.copy(one.label, folder / "labels"))) for one in labelled]
        others = [Path(path) for path in unlabelled.values()]
        datalist = round_datalist(copies, others, settings.values, settings.modality, folder / "validation")
        write_json(folder / "datalist.json", datalist)
        write_json(folder / "images.json", unlabelled)
        return folder


class UncertaintyStrategy(Strategy):
    """The unlabelled image of which the latest student is least certain; one at random before there is a student.

    Args:
        project: the project.
    """

    def __init__(self, project: AnnotationProject) -> None:
        super().__init__("The image of which the student is least certain")
        self.project = project

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Returns the image's name and its score; None if every image is labelled."""
        scores = self.project.scores
        name = choose_next(datastore.get_unlabeled_images(), scores)
        return None if name is None else {"id": name, "weight": scores.get(name)}


def training_environment(server: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of the training processes: the server's, without its stand-in modules."""
    return {**server, "PYTHONPATH": server.get("TSKD_PYTHONPATH", "")}


def write_result(label_map: np.ndarray, affine: np.ndarray, flat: bool) -> str:
    """Writes a label map to a temporary file, which the server removes once it is sent, and returns its path."""
    file = _temporary(".png" if flat else ".nii.gz")
    if flat:
        Image.fromarray(label_map[..., 0].astype(np.uint8)).save(file)
    else:
        write_nifti(file, label_map, affine)
    return file


def _temporary(suffix: str) -> str:
    handle, path = tempfile.mkstemp(suffix)
    os.close(handle)
    return path
