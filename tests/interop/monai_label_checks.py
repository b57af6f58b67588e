"""Annotates phantom scans with a real MONAI Label server, on files and on a PACS; see check_monai_label.sh."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from pydicom import dcmread

from tests.interop.monai_label_client import label_server
from tests.interop.monai_label_picture import write_picture
from tests.interop.monai_label_steps import TURNS, LabelSession, expect, stem
from tests.interop.monai_label_study import Scan, train_student, write_scans, write_series
from tests.interop.orthanc import ask, orthanc
from tests.support.paths import ROOT

SETUP = ROOT / "scripts" / "setup_monai_label.sh"
OUTPUTS = ("student", "plan", "study", "nifti", "dicom")
Result = TypeVar("Result")


def step(title: str, action: Callable[[], Result]) -> Result:
    """Returns the result of an action and prints its duration; an action that raises ends the script with 1."""
    start = time.monotonic()
    try:
        result = action()
    except Exception as error:
        print(f"FAILED {time.monotonic() - start:7.1f} s  {title}: {error}", flush=True)
        raise SystemExit(1) from None
    detail = f": {result}" if isinstance(result, str) else ""
    print(f"ok     {time.monotonic() - start:7.1f} s  {title}{detail}", flush=True)
    return result


def annotate(session: LabelSession, labelled: int) -> None:
    """Runs an annotator's loop: segment, correct some, train, segment again."""
    names = list(session.scans)
    step("the server offers the model and finds every scan", session.offers_the_model)
    step("next sample", lambda: session.names_the_next_sample(names))
    step("inference gives the bundle runner's voxels", lambda: session.infers("before"))
    step("labels are saved", lambda: session.saves_labels(names[:labelled]))
    step("next sample has no label yet", lambda: session.names_the_next_sample(names[labelled:]))
    step("training on the saved labels", session.trains)
    step("inference takes the new weights", session.infers_anew)
    dice = [session.dice(names[labelled:], turn) for turn in TURNS]
    print(f"                  Dice of the scans without a label: {dice[0]:.3f} before, {dice[1]:.3f} after training")


def check_files(bundle: Path, folder: Path) -> None:
    """Annotates NIfTI files."""
    scans = {stem(scan): scan for scan in write_scans(folder)}
    with ExitStack() as stack:
        context = label_server(bundle, folder / "images", folder / "server.log", folder / "cache")
        server = step("the server starts on a folder of NIfTI files", lambda: stack.enter_context(context))
        session = LabelSession(server, bundle, scans, folder / "label_maps")
        annotate(session, labelled=3)
        step("saved labels come back as they were", lambda: session.gives_labels_back(list(scans)[:3]))
        step("picture", lambda: str(write_picture(session, folder.parent / "monai_label.png")))


def check_pacs(bundle: Path, folder: Path, plugin: Path) -> None:
    """Annotates DICOM studies of an Orthanc."""
    scans = write_series(folder)
    with ExitStack() as stack:
        address = step("Orthanc starts", lambda: stack.enter_context(orthanc(folder / "orthanc", [plugin])))
        uids = step("it takes the studies", lambda: [send(scan, address) for scan in scans])
        studies = f"{address}/dicom-web"
        context = label_server(bundle, studies, folder / "server.log", folder / "cache")
        server = step("the server starts on its DICOMweb", lambda: stack.enter_context(context))
        session = LabelSession(server, bundle, dict(zip(uids, scans, strict=True)), folder / "label_maps")
        annotate(session, labelled=2)
        step("the labels are DICOM SEG in their studies", lambda: has_segmentations(address, uids[:2]))


def send(scan: Scan, address: str) -> str:
    """Sends a series to Orthanc and returns its SeriesInstanceUID."""
    paths = sorted(scan.image.iterdir())
    for path in paths:
        ask(f"{address}/instances", path.read_bytes())
    return str(dcmread(paths[0], stop_before_pixels=True).SeriesInstanceUID)


def has_segmentations(address: str, uids: list[str]) -> str:
    """Step: for each of the series, and no other, Orthanc has a SEG in the same study that refers to it."""
    found = []
    for series in ask(f"{address}/series?expand"):
        if series["MainDicomTags"]["Modality"] != "SEG":
            continue
        tags = ask(f"{address}/instances/{series['Instances'][0]}/simplified-tags")
        (referred,) = tags["ReferencedSeriesSequence"]
        in_study = ask(f"{address}/studies/{series['ParentStudy']}/series")
        study_uids = {one["MainDicomTags"]["SeriesInstanceUID"] for one in in_study}
        expect(referred["SeriesInstanceUID"] in study_uids, "a SEG in the study of its images", study_uids)
        found.append(referred["SeriesInstanceUID"])
    expect(sorted(found) == sorted(uids), sorted(uids), sorted(found))
    return f"{len(found)} SEG"


def set_up() -> None:
    """Step: creates the server's environment unless it exists."""
    done = subprocess.run(["bash", str(SETUP)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])


def prepare(folder: Path, given: Path | None) -> Path:
    """Returns the bundle to serve: a copy of the given one, since it will be trained, or a new one."""
    if given is None:
        return step("a student is trained on the embedded study", lambda: train_student(folder))
    return Path(shutil.copytree(given, folder / "student"))


def main() -> None:
    """Reads the command line and runs every step; the first that fails ends the script with 1."""
    parser = argparse.ArgumentParser(description=__doc__, prog="check_monai_label.sh")
    parser.add_argument("--bundle", type=Path, help="student of the embedded study; default: one trained for this")
    parser.add_argument("--output", type=Path, help="kept; what an earlier check left there is removed")
    parser.add_argument("--plugin", type=Path, required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    start = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped as well
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.output or Path(temporary)).resolve()
        for name in OUTPUTS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("nifti", "dicom"):
            (folder / name).mkdir(parents=True)
        step("the server's environment", set_up)
        bundle = prepare(folder, args.bundle)
        check_files(bundle, folder / "nifti")
        check_pacs(bundle, folder / "dicom", args.plugin)
    print(f"all ok in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
