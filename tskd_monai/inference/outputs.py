"""Postprocessing of label maps, and writing them in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.data import FolderLayout
from monai.data.folder_layout import FolderLayoutBase
from monai.transforms import Compose, SaveImaged, Transform

from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.dicom_results import RESULTS, SEG
from tskd_monai.data.output_names import NIFTI, SEGMENTATION_POSTFIX, check_output_format, output_name, output_suffix
from tskd_monai.data.segmentation_writers import AtomicPngWriter, AtomicVolumeWriter
from tskd_monai.data.task import Task
from tskd_monai.files.option_path import text_path
from tskd_monai.transforms.labels import KeepLargestComponentsd

logger = logging.getLogger(__name__)


class WriterThread:
    """Runs writes in a thread, in order and one at a time.

    At most one write is queued behind the running one, so a slow disk delays the run instead of filling memory. The
    error of a failed write is logged and kept for `take_failure` or `finish`. Attached to an engine as a handler, it
    completes a run only once everything is on disk; when the run fails elsewhere, queued writes still finish.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: list[Future[None]] = []
        self._failures: list[Exception] = []
        self._written: list[Path] = []

    def attach(self, engine: Engine) -> None:
        """Waits for all writes at the end of a run."""
        # Not after a failure: ignite treats an error with a handler as handled.
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def submit(self, write: Callable[[], Any]) -> None:
        """Queues a write."""
        self._pending.append(self._executor.submit(self._run, write))
        wait(self._pending[:-2])
        self._pending = self._pending[-2:]

    def take_failure(self) -> Exception | None:
        """Returns the first error of the writes so far, or None, and clears all of them."""
        failures, self._failures = self._failures, []
        return failures[0] if failures else None

    def note(self, path: Path) -> None:
        """Notes the path of an output that is being written."""
        self._written.append(path)

    def take_written(self) -> list[Path]:
        """Returns the outputs that were written since the last call, in order: no folder has to be listed for them."""
        written, self._written = self._written, []
        return written

    def finish(self) -> None:
        """Waits for all writes.

        Raises:
            Exception: the first error, unless it was taken.
        """
        wait(self._pending)
        self._pending = []
        if failure := self.take_failure():
            raise failure

    def _run(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:
            # Only the type, because the message may name a path; the record has the message.
            logger.error("Writing failed (%s).", type(error).__name__)
            self._failures.append(error)


class SaveImageInBackgroundd(SaveImaged):
    """`SaveImaged` that queues the write in a thread and returns immediately.

    MONAI Label, which checks the class, and MONAI Deploy, which checks the name, recognise it as `SaveImaged` and skip
    it, since they write outputs themselves.

    Args:
        thread: writer.
        key: key of the label map.
        options: further arguments of `SaveImaged`.
    """

    def __init__(self, thread: WriterThread, key: str, options: Mapping[str, Any]) -> None:
        super().__init__(key, **options)
        self.thread = thread

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Returns the dictionary unchanged."""
        item = {key: data[key] for key in self.keys}
        self.thread.submit(lambda: SaveImaged.__call__(self, item))
        return dict(data)


def postprocessing(task: Task) -> Compose:
    """Returns the transform of `pred`, a label map (1, X, Y, Z) on the image's grid from `LabelMapInferer`.

    Args:
        task: states of which labels only the largest connected component is kept.
    """
    steps: list[Transform] = []
    if task.filtered:
        steps.append(KeepLargestComponentsd("pred", task.filtered))
    return Compose(steps)


class CaseLayout(FolderLayoutBase):
    """Paths of outputs: the name of the case, with a suffix that depends on its image.

    Args:
        output_dir: output folder.
        thread: writer that notes the paths; None: nobody does.
    """

    def __init__(self, output_dir: str, thread: WriterThread | None = None) -> None:
        self.output_dir, self.thread = output_dir, thread

    def filename(self, subject: Any = "subject", idx: Any = None, suffix: str = "", **kwargs: Any) -> str:
        """Returns the path of an output.

        Args:
            subject: name from `output_name`.
            idx: part of MONAI's interface.
            suffix: file name extension.
            kwargs: part of MONAI's interface.
        """
        layout = FolderLayout(self.output_dir, SEGMENTATION_POSTFIX, suffix, makedirs=True)
        path = layout.filename(subject, idx, **kwargs)
        if self.thread is not None:
            self.thread.note(Path(path))
        return str(path)


def save_segmentation(
    task: Task,
    output_dir: str | Path,
    thread: WriterThread | None = None,
    compression_level: int = 1,
    output_format: str = NIFTI,
) -> SaveImaged:
    """Returns the transform that atomically writes `pred` as `<case>_seg.nii.gz` or `.nrrd`, or `.png` for 2D images.

    Args:
        task: task of the network.
        output_dir: output folder.
        thread: writer in the background; None to write synchronously.
        compression_level: gzip level, 1 (fastest) to 9.
        output_format: format of volumes: `nifti`, `nrrd`, or `same`: NRRD for an NRRD image, else NIfTI.

    Raises:
        ValueError: if the format is another.
    """
    check_output_format(output_format)
    volumes = partial(AtomicVolumeWriter, compress_level=compression_level)
    writer = AtomicPngWriter if task.axcodes is None else volumes
    return save_label_map(writer, partial(output_suffix, task, output_format), output_dir, thread)


def save_label_map(
    writer: Any, suffix: Callable[[str], str], output_dir: str | Path, thread: WriterThread | None = None
) -> SaveImaged:
    """Returns the transform that writes `pred` under the name of the case.

    Args:
        writer: class of an `ImageWriter`, or a factory.
        suffix: function from the path of an image to the file name extension.
        output_dir: output folder.
        thread: writer in the background; None to write synchronously.
    """

    def name_of(metadata: Mapping[str, Any], transform: Any) -> dict[str, str | None]:
        image = str(metadata.get("filename_or_obj", ""))
        return {**output_name(metadata, transform), "suffix": suffix(image)}

    folder = str(text_path(output_dir, "output_dir"))
    options = {
        "output_dir": folder,
        "output_postfix": SEGMENTATION_POSTFIX,
        "output_ext": suffix(""),
        "output_dtype": None,
        "resample": False,
        "separate_folder": False,
        "print_log": False,
        "writer": writer,
        "output_name_formatter": name_of,
        "folder_layout": CaseLayout(folder, thread),
    }
    return SaveImaged("pred", **options) if thread is None else SaveImageInBackgroundd(thread, "pred", options)


def save_dicom_seg(
    task: Task, output_dir: str | Path, segmentation_type: str = "BINARY", thread: WriterThread | None = None
) -> SaveImaged:
    """Returns the transform that writes `pred` of a DICOM series as a DICOM SEG that references the source images.

    Args:
        task: its labels' codes describe the segments.
        output_dir: output folder; the file is named by a hash of the Series Instance UID.
        segmentation_type: `BINARY` or `LABELMAP`.
        thread: writer in the background; None to write synchronously.
    """
    writer = partial(DicomSegWriter, labels=task.labels, algorithm_name=task.name, segmentation_type=segmentation_type)
    return save_label_map(writer, lambda image: ".dcm", output_dir, thread)


def save_dicom_results(
    task: Task,
    output_dir: str | Path,
    kinds: Sequence[str],
    segmentation_type: str = "BINARY",
    thread: WriterThread | None = None,
) -> list[SaveImaged]:
    """Returns the transforms that write `pred` of a DICOM series as DICOM objects of its study.

    Args:
        task: its labels' codes describe the structures.
        output_dir: output folder; files are named by a hash of the Series Instance UID, `<hash>_seg.dcm` for a SEG,
            `<hash>_seg.rtstruct.dcm` and so on for the others.
        kinds: objects to write: `seg`; `rtstruct`, contours; `sc`, a secondary capture with outlines on the images;
            `sr`, a structured report of the volumes.
        segmentation_type: `BINARY` or `LABELMAP`, of the SEG.
        thread: writer in the background; None to write synchronously.

    Raises:
        ImportError: if `seg` or `sr` is given and highdicom is not installed.
        ValueError: if a kind is unknown or repeated, or none is given.
    """
    if not kinds or not set(kinds) <= set(RESULTS) or len(set(kinds)) < len(kinds):
        raise ValueError(f"Expected --dicom with names among {', '.join(RESULTS)}, each once, found {kinds}.")
    saves = []
    for kind in kinds:
        if kind == SEG:
            saves.append(save_dicom_seg(task, output_dir, segmentation_type, thread))
            continue
        writer = partial(_result_writer(kind), labels=task.labels, algorithm_name=task.name)
        writer(labels=task.labels)  # what it lacks is stated before work begins
        saves.append(save_label_map(writer, partial(_constant_suffix, f".{kind}.dcm"), output_dir, thread))
    return saves


def _constant_suffix(suffix: str, image: str) -> str:
    return suffix


def _result_writer(kind: str) -> Any:
    """Returns the writer of a kind; its module is imported only now."""
    if kind == "rtstruct":
        from tskd_monai.data.dicom.rtstruct_writer import RtStructWriter

        return RtStructWriter
    if kind == "sc":
        from tskd_monai.data.dicom.overlay_writer import OverlayWriter

        return OverlayWriter
    from tskd_monai.data.dicom.report_writer import ReportWriter

    return ReportWriter
