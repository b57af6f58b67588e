"""`tskd segment` and `tskd evaluate`: one line per case, the runner's line to repeat it, one line per error."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from tests.data.itk_volumes import write_volume
from tests.support.fork_server import python_command
from tests.support.paths import BUNDLES, ROOT
from tskd_monai.commands.main import main
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json, write_json


def segment(*arguments: str) -> int:
    """Runs `tskd segment shipped`, which rejects the coarse phantoms here without `--force`."""
    return main(["segment", "shipped", "--force", *arguments])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases as images/ and labels/, and one of them as a DICOM series."""
    folder = tmp_path_factory.mktemp("phantom")
    write_study(
        folder / "study", seed=3, sections={"training": 1, "test": 1}, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0)
    )
    datalist = read_json(folder / "study/datalist.json")
    for entry in (*datalist["training"], *datalist["test"]):
        for key in ("image", "label"):
            target = folder / f"{key}s" / f"{entry['case']}.nii.gz"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((folder / "study" / entry[key]).read_bytes())
    image = nib.load(next((folder / "images").iterdir()))
    write_dicom_series(folder / "series", np.asarray(image.dataobj).astype(np.uint16), image.affine, seed=3)
    return folder


def run_line(line: str, folder: Path) -> None:
    """Runs a line of commands.txt as a shell would."""
    command = [python_command(), *shlex.split(line)[1:]]
    subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True, timeout=300)


def test_a_line_a_case_and_the_runner_s_line_gives_the_same_files(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = sorted((phantom / "images").iterdir())
    assert segment(*map(str, images), "--output-dir", "out") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("$ python -m monai.bundle run ")
    for line, image in zip(shown[1:], images, strict=False):
        name = image.name.removesuffix(".nii.gz")
        assert line.startswith(f"{name}: liver ") and f" mL -> {name}_seg.nii.gz [reject; " in line
    assert shown[-1] == "Segmentations: out/   Volumes: out/volumes.csv"
    assert (tmp_path / "out/commands.txt").read_text() == shown[0][2:] + "\n"
    assert "Segmenting" not in (tmp_path / "out/log.txt").read_text() and (tmp_path / "out/log.txt").stat().st_size

    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*_seg.nii.gz")}
    (tmp_path / "out").rename(tmp_path / "first")
    run_line(shown[0][2:], tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*_seg.nii.gz")} == before


def test_a_rejected_case_is_written_only_by_force(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sorted((phantom / "images").iterdir())[0]
    assert main(["segment", "shipped", str(image), "--output-dir", str(tmp_path)]) == 1
    assert "slice distance 20 mm, in training 7.7 mm" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.nii.gz")) and "reject" in (tmp_path / "qc.csv").read_text()
    assert segment(str(image), "--output-dir", str(tmp_path)) == 0
    assert len(list(tmp_path.glob("*_seg.nii.gz"))) == 1


def test_shards_of_a_job_array_write_one_table(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call = [str(phantom / "images"), "--output-dir", "out", "--shard"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert segment(*call, "1/2") == 0
    first = capsys.readouterr().out.splitlines()
    assert segment(*call, "auto") == 0
    second = capsys.readouterr().out.splitlines()
    assert "--shard=2/2" in second[0] and (tmp_path / "out/commands.2-of-2.txt").read_text() == second[0][2:] + "\n"
    assert len(first) - 2 + len(second) - 2 == 2  # one line each for the command and the folder
    names = sorted(path.name.removesuffix(".nii.gz") for path in (phantom / "images").iterdir())
    assert [line.split(",")[0] for line in Path("out/volumes.csv").read_text().splitlines()[1:]] == names
    with pytest.raises(SystemExit):
        segment(*[*call, "3/2"])
    assert "argument --shard: K/N with K from 1 to N" in capsys.readouterr().err


def test_a_student_that_knows_no_shards_is_refused(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = str(shutil.copytree(BUNDLES / "segmentation", tmp_path / "student"))
    config = tmp_path / "student/configs/inference.json"
    write_json(config, {key: value for key, value in read_json(config).items() if key != "shard"})
    call = ["segment", student, str(phantom / "images"), "--output-dir", str(tmp_path / "out"), "--shard", "1/2"]
    assert main(call) == 1
    assert "Expected the option shard in configs/inference.json of " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_dicom_seg_beside_the_mask(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment(str(phantom / "series"), "--output-dir", str(tmp_path), "--dicom-seg") == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.count("_seg.dcm") == line.count("_seg.nii.gz") == 1


def test_all_dicom_results_beside_the_mask(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--output-dir", str(tmp_path), "--dicom", "seg,rtstruct,sc,sr"]
    assert segment(str(phantom / "series"), *options) == 0
    line = capsys.readouterr().out.splitlines()[1]
    endings = (".dcm", ".rtstruct.dcm", ".sc.dcm", ".sr.dcm")
    assert all(line.count(f"_seg{ending}") == 1 for ending in (*endings, ".nii.gz"))
    modalities = {str(dcmread(path).Modality) for path in tmp_path.glob("*.dcm")}
    assert modalities == {"SEG", "RTSTRUCT", "OT", "SR"}


def test_an_unknown_dicom_result_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["segment", "shipped", "x.nii.gz", "--dicom", "seg,pdf", "--output-dir", str(tmp_path / "out")])
    assert "expected names among seg,rtstruct,sc,sr, each once, found seg,pdf" in capsys.readouterr().err


def test_a_dicom_seg_of_another_image_is_refused_before_work_begins(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(phantom / "series"), str(sorted((phantom / "images").iterdir())[0])]
    assert main(["segment", "shipped", *images, "--dicom-seg", "--output-dir", str(tmp_path / "out")]) == 1
    assert f"Expected DICOM series with --dicom-seg, found {images[1]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_the_bad_case_fails(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sorted((phantom / "images").iterdir())[0]
    (tmp_path / "bad.nii.gz").write_bytes(good.read_bytes()[:300])
    assert segment(str(tmp_path / "bad.nii.gz"), str(good), "--output-dir", str(tmp_path / "o")) == 1
    shown = capsys.readouterr().out
    assert "bad: FAILED: " in shown and f"{good.name.removesuffix('.nii.gz')}: liver" in shown
    assert shown.endswith("\n1 of 2 cases failed; private/studies.csv states their inputs\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "none", "a.nii.gz"], "tskd segment: error: Expected a student at none, found no models/model.pt"),
        (["segment", "shipped", "none.nii.gz"], "Expected an image file or a DICOM series folder at "),
        (["segment", "shipped", "."], "Expected images or a DICOM series in the folder ., found no file."),
        (["evaluate", "shipped", "none"], "tskd evaluate: error: Expected a datalist (JSON), a folder with images/"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert list(tmp_path.iterdir()) == []
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    with pytest.raises((OSError, RuntimeError)):
        main([*arguments, "--debug"])


def test_every_labelled_image_of_a_folder_is_scored(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ",".join(f"{name}={value}" for value, name in read_json(phantom / "study/datalist.json")["labels"].items()
                      if value != "0")  # fmt: skip
    for data in (["evaluate", "shipped", str(phantom), "--labels", labels],
                 ["evaluate", "shipped", str(phantom / "study/datalist.json"), "--section", "test"]):  # fmt: skip
        count = 2 if "--labels" in data else 1
        assert main([*data, "--output-dir", str(tmp_path / str(count))]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert any(line.startswith("liver: Dice 0.") and line.endswith(f" over {count} patients") for line in shown)
        assert shown[-1] == f"Report: {tmp_path / str(count) / 'report.html'}"
        assert (tmp_path / str(count) / "report.html").is_file()
        check_the_runner_s_line_scores_alike(shown[0], tmp_path / str(count))


def check_the_runner_s_line_scores_alike(line: str, output: Path) -> None:
    """Removes the results of an evaluation, but not the datalist that it was given, and runs its line."""
    metrics = (output / "metrics.csv").read_bytes()
    for path in output.iterdir():
        if path.name != "private":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run_line(line.removeprefix("$ "), output.parent)
    assert (output / "metrics.csv").read_bytes() == metrics and (output / "report.html").is_file()


def test_a_folder_of_slicers_files_is_segmented_and_scored_alike(phantom: Path, tmp_path: Path) -> None:
    for kind, ending in (("image", ".nrrd"), ("label", ".seg.nrrd")):
        (tmp_path / "data" / f"{kind}s").mkdir(parents=True)
        for path in (phantom / f"{kind}s").iterdir():
            image = nib.load(path)
            voxels = np.asarray(image.dataobj).astype("<f4" if kind == "image" else "u1")
            name = path.name.removesuffix(".nii.gz")
            write_volume(tmp_path / "data" / f"{kind}s" / f"{name}{ending}", voxels, image.affine)
    names = read_json(phantom / "study/datalist.json")["labels"]
    labels = ",".join(f"{name}={value}" for value, name in names.items() if value != "0")
    for data, folder in ((phantom, tmp_path / "nifti"), (tmp_path / "data", tmp_path / "nrrd")):
        assert main(["evaluate", "shipped", str(data), "--labels", labels, "--output-dir", str(folder)]) == 0
    assert (tmp_path / "nifti/metrics.csv").read_text() == (tmp_path / "nrrd/metrics.csv").read_text()
    output = ["--output-dir", str(tmp_path / "out"), "--output-format", "same"]
    assert segment(str(tmp_path / "data" / "images"), *output) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*_seg*")) == sorted(
        f"{path.stem}_seg.nrrd" for path in (tmp_path / "data" / "images").iterdir()
    )


def test_the_student_of_the_bundles_is_called_shipped() -> None:
    from tskd_monai.commands.student_argument import student_folder

    assert student_folder("shipped") == BUNDLES / "segmentation"


def test_an_error_of_a_later_run_shows_no_result_of_an_earlier_one(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sorted((phantom / "images").iterdir())[0]
    output = ["--output-dir", str(tmp_path / "out")]
    assert segment(str(image), *output) == 0
    capsys.readouterr()
    assert main(["segment", "shipped", str(tmp_path / "none.nii.gz"), *output]) == 1
    shown = capsys.readouterr()
    assert "liver" not in shown.out and "tskd segment: error: Expected an image file" in shown.err


@pytest.mark.slow
def test_the_documented_job_array_segments_each_case_once(phantom: Path, tmp_path: Path) -> None:
    text = (BUNDLES / "segmentation/docs/many_studies.md").read_text()
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", text, flags=re.DOTALL)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tskd").write_text(f'#!/bin/bash\nexec {python_command()} -m tskd_monai "$@"\n')
    (tmp_path / "bin/srun").write_text('#!/bin/bash\nexec "$@"\n')
    for program in ("tskd", "srun"):
        (tmp_path / "bin" / program).chmod(0o755)
    student = tmp_path / "student"
    shutil.copytree(BUNDLES / "segmentation", student, ignore=shutil.ignore_patterns("quality.json"))
    given = {"SHARDS": "2", "STUDENT": student, "ARCHIVE": phantom / "images", "RESULTS": tmp_path / "out"}
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(ROOT),
                   **{name: str(value) for name, value in given.items()}}  # fmt: skip
    tasks = [
        subprocess.Popen(["bash", "-c", script], env={**environment, "SLURM_ARRAY_TASK_ID": str(task)})
        for task in (1, 2)
    ]
    assert [task.wait(300) for task in tasks] == [0, 0]
    shards = [read_json(tmp_path / f"out/summary.{task}-of-2.json")["studies"] for task in (1, 2)]
    names = sorted(case["name"] for cases in shards for case in cases)
    assert names == sorted(path.name.removesuffix(".nii.gz") for path in (phantom / "images").iterdir())
    assert len((tmp_path / "out/volumes.csv").read_text().splitlines()) == 3
