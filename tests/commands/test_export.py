"""An exported student is complete: its code needs no tskd_monai, and it segments like the bundle it was made from.

Its upload to the hub sends what a dry run lists.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from monai.bundle import run

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.bundle.zoo import hub
from tskd_monai.bundle.zoo.bundle import ZOO_NAMES, config_sources, fill_bundle
from tskd_monai.bundle.zoo.contents import Contents, bundle_of
from tskd_monai.bundle.zoo.documents import COMMAND, FENCE
from tskd_monai.commands.main import main
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json
from tskd_monai.networks.students import build_student

NAME = ZOO_NAMES["segmentation"]
SCHEMA = ROOT / "tests" / "bundles" / "meta_schema_20240725.json"
# Runs in a process that cannot import tskd_monai: verify_net_in_out, inference and every vendored module.
WITHOUT_THE_PACKAGE = """
import importlib, sys
from pathlib import Path
sys.modules["tskd_monai"] = None  # makes every import of it fail
from monai.bundle import run, verify_net_in_out
bundle, image, output = sys.argv[1:]
config = f"{bundle}/configs/inference.json"
verify_net_in_out("network_def", meta_file=f"{bundle}/configs/metadata.json", config_file=config, bundle_root=bundle)
run(config_file=config, bundle_root=bundle, image=image, output_dir=output, device="cpu")
for path in sorted(Path(bundle, "scripts").rglob("*.py")):
    importlib.import_module(".".join(path.relative_to(bundle).with_suffix("").parts).removesuffix(".__init__"))
print(sys.modules["scripts"].__file__)
"""


CARD = ROOT / "tskd_monai" / "bundle" / "zoo" / "shipped_student.yaml"
REPOSITORY = ("--to", "hub", "--repo-id", "owner/abdomen")


def export(*arguments: str | Path) -> int:
    return main(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, make_task: Callable[..., Task]) -> Path:
    """A student bundle with random weights."""
    task = make_task(image_size=(48, 48), pixdim=(8.0, 8.0))
    torch.manual_seed(0)
    network = build_student("compact_unet_small", task.channels, task.num_classes, task.image_size)
    folder = tmp_path_factory.mktemp("student") / "student"
    write_student_bundle(ROOT / "bundles" / "segmentation", folder, task, "compact_unet_small", network.state_dict())
    return folder


@pytest.fixture(scope="module")
def zoo(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export of that student."""
    folder = tmp_path_factory.mktemp("zoo")
    assert export(student, "--to", "zoo", "--output-dir", folder) == 0
    return folder


@pytest.fixture(scope="module")
def shipped_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export of the student that the project ships."""
    folder = tmp_path_factory.mktemp("shipped_zoo")
    assert export("shipped", "--to", "zoo", "--output-dir", folder) == 0
    return folder


def test_export_has_the_files_of_the_zoo(zoo: Path) -> None:
    bundle = zoo / NAME
    wanted = ("LICENSE", "configs/inference.json", "models/model.pt", "docs/README.md", "docs/usage.md", "scripts")
    assert all((bundle / name).exists() for name in wanted)
    metadata = read_json(bundle / "configs" / "metadata.json")
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert metadata["version"] in metadata["changelog"]
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] == "spleen"
    required = set(metadata["required_packages_version"])
    assert {"nibabel", "pillow"} <= required
    assert "transformers" not in required  # not needed by a student
    assert f'BUNDLE_ROOT = "models/{NAME}"' in (zoo / f"test_{NAME}.py").read_text()


def named_files(text: str) -> set[str]:
    """Returns the strings in a README that look like paths of files in a bundle."""
    return set(re.findall(r"[\w./-]+\.(?:py|sh|md|json|yaml|pt|txt)\b", re.sub(r"https?://\S+", "", text)))


@pytest.mark.parametrize("shipped", [True, False])
def test_readme_names_only_what_is_in_the_export(shipped: bool, zoo: Path, shipped_zoo: Path) -> None:
    bundle = (shipped_zoo if shipped else zoo) / NAME
    readme = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    named = named_files(readme)
    assert f"{NAME}/configs/inference.json" in named and "usage.md" in named
    folders = (bundle, bundle / "docs", bundle.parent)
    assert [name for name in named if not any((folder / name).is_file() for folder in folders)] == []


@pytest.mark.parametrize("shipped", [True, False])
def test_documents_name_no_absent_script_and_no_dead_link(shipped: bool, zoo: Path, shipped_zoo: Path) -> None:
    bundle = (shipped_zoo if shipped else zoo) / NAME
    for document in (bundle / "docs").glob("*.md"):
        text = document.read_text(encoding="utf-8")
        scripts = re.findall(r"scripts/[\w./-]*\w", text)
        assert [name for name in scripts if not (bundle / name).exists()] == [], document.name
        commands = [line for block in FENCE.findall(text) for line in block.splitlines() if COMMAND.search(line)]
        assert commands == [], document.name
        links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
        assert [link for link in links if not (document.parent / link).is_file()] == [], document.name


def test_performance_of_the_shipped_student_is_that_of_its_model_card(shipped_zoo: Path, zoo: Path) -> None:
    card = (ROOT / "bundles" / "segmentation" / "docs" / "model_card.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| student"))
    readme = (shipped_zoo / NAME / "docs" / "README.md").read_text(encoding="utf-8")
    assert row in readme.split("## **Performance**")[1].split("## **")[0]
    assert "The tskd-monai team" in readme.split("### **Tags**")[0]


def test_student_of_a_user_has_no_results_and_no_owner_of_the_projects(zoo: Path) -> None:
    docs = zoo / NAME / "docs"
    readme = (docs / "README.md").read_text(encoding="utf-8")
    assert "Not measured for these weights." in readme and not (docs / "model_card.md").exists()
    assert "Not stated by those who trained it." in readme.split("### **Tags**")[0]
    assert "team" not in read_json(zoo / NAME / "configs" / "metadata.json")["copyright"]


def test_card_names_the_owner_of_an_exported_student(student: Path, tmp_path: Path) -> None:
    shipped = CARD.read_text(encoding="utf-8")
    (tmp_path / "card.yaml").write_text(shipped.replace("tskd-monai team", "clinic"), encoding="utf-8")
    assert export(student, "--to", "zoo", "--card", tmp_path / "card.yaml", "--output-dir", tmp_path) == 0
    metadata = read_json(tmp_path / NAME / "configs" / "metadata.json")
    assert (metadata["authors"], metadata["copyright"]) == ("The clinic", "Copyright (c) The clinic")
    readme = (tmp_path / NAME / "docs" / "README.md").read_text(encoding="utf-8")
    assert (
        "The clinic" in readme.split("### **Tags**")[0]
        and "Weights: cc-by-nc-sa-4.0. Copyright (c) The clinic" in readme
    )


def test_nothing_of_the_package_is_named_in_code_and_configs(zoo: Path) -> None:
    bundle = zoo / NAME
    paths = [*(bundle / "scripts").rglob("*.py"), *(bundle / "configs").iterdir()]
    assert len(paths) > 20
    assert [path.name for path in paths if "tskd_monai" in path.read_text(encoding="utf-8")] == []
    assert not (bundle / "scripts" / "synthesis").exists()
    assert not (bundle / "scripts" / "distillation").exists()


@pytest.mark.slow
def test_export_runs_without_the_package_from_anywhere_and_segments_alike(
    zoo: Path, student: Path, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(0).integers(0, 1000, (32, 28, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-8.0, 8.0, 20.0, 1.0])), tmp_path / "scan.nii.gz")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python_command(), "-c", WITHOUT_THE_PACKAGE, zoo / NAME, "scan.nii.gz", "exported"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str(zoo / NAME / "scripts" / "__init__.py")
    config = str(student / "configs" / "inference.json")
    scan, output = str(tmp_path / "scan.nii.gz"), str(tmp_path / "original")
    run(config_file=config, bundle_root=str(student), logging_file=False, image=scan, output_dir=output, device="cpu")
    first, second = (nib.load(tmp_path / part / "scan_seg.nii.gz") for part in ("original", "exported"))
    assert np.unique(np.asarray(first.dataobj)).size > 1
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    np.testing.assert_array_equal(first.affine, second.affine)


def test_same_export_is_the_same_zip(
    zoo: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(student, "--to", "zoo", "--output-dir", tmp_path) == 0
    archive = f"{NAME}_v0.1.0.zip"
    assert (tmp_path / archive).read_bytes() == (zoo / archive).read_bytes()
    with zipfile.ZipFile(tmp_path / archive) as content:
        assert all(name.startswith(f"{NAME}/") for name in content.namelist())
    assert str(tmp_path / archive) in capsys.readouterr().out


def test_distillation_gives_its_students_their_code(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    metadata = read_json(ROOT / "bundles" / "distillation" / "configs" / "metadata.json")
    fill_bundle("distillation", "zoo_name", Contents(make_task(), metadata, {}), tmp_path, card=None)
    assert (tmp_path / "configs" / "inference.json").is_file()
    train = (tmp_path / "configs" / "train.yaml").read_text()
    assert "$Path(@bundle_root) / 'segmentation'" in train and "--bundle_root zoo_name" in train
    write_student_bundle(tmp_path / "segmentation", tmp_path / "student", make_task(), "compact_unet_small", {})
    assert (tmp_path / "student" / "scripts" / "networks" / "students.py").is_file()
    assert not (tmp_path / "segmentation" / "docs" / "model_card.md").exists()  # these are not the shipped weights


@pytest.mark.parametrize("bundle", list(ZOO_NAMES))
def test_every_bundle_has_an_inference_config_and_a_unit_test(bundle: str) -> None:
    assert any(path.stem == "inference" for path in config_sources(bundle))
    assert ZOO_NAMES[bundle] in (ROOT / "tskd_monai" / "bundle" / "zoo" / "unit_tests" / f"{bundle}.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shipped", "--bundle", "teacher_lora"], "Expected a teacher for the bundle teacher_lora, found the shipped"),
        (["shipped", "--bundle", "diffusion_synthesis"], "Expected a diffusion model for the bundle"),
        (["shipped", "--bundle", "distillation"], "Expected a student for the bundle distillation, found the shipped"),
        (["teacher"], "Expected --task with the task.json that teacher_lora was trained for, found none"),
        (["nowhere"], "Expected the trained weights at nowhere/models/model.pt, found none; give the folder of a"),
        (["shipped", "--name", "My Bundle"], "Expected a name of lower-case letters, digits and _"),
        (["shipped", "--card", "none.yaml"], "Expected a card at none.yaml, found none"),
        (["shipped", "--card", "broken.yaml"], "Expected YAML in the card broken.yaml: "),
        (["shipped", "--name", "mine"], "Expected a new folder or an earlier export at out/mine, found other files"),
        (["shipped", "--url", "model.pt"], "expected PATH=URL"),
        (["shipped", "--repo-id", "owner/name"], "--repo-id needs --to hub, found zoo"),
        (["shipped", "--calibration", "a.json"], "--calibration needs --to onnx or openvino, found zoo"),
        (["shipped", "--to", "zoo,onx"], "expected onnx, openvino, zoo, hub, portable, pt2, found 'onx'"),
        (["shipped", "--to", "zoo,hub"], "expected --repo-id OWNER/NAME with --to hub"),
        (["shipped", "--to", "hub", "--repo-id", "not a name"], "Repo id must"),
        (["teacher", "--to", "hub", "--repo-id", "owner/name"], "Expected --card with the licence of the weights"),
    ],
)
def test_what_is_missing_is_named_in_one_line_and_nothing_is_left_behind(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("teacher/teacher.json", "out/mine/notes.txt"):
        Path(file).parent.mkdir(parents=True)
        Path(file).write_text("{}")
    Path("broken.yaml").write_text("tags: [")
    try:
        code = export("--to", "zoo", *arguments, "--output-dir", "out")
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    assert code in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tskd export: error: ") and message in line
    assert [path.name for path in tmp_path.glob("out/**/*")] == ["mine", "notes.txt"]


def test_a_folder_is_not_exported_over_itself(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in (zoo / NAME).rglob("*"))
    assert export(zoo / NAME, "--to", "zoo", "--output-dir", zoo) == 1
    assert "Expected a new folder or an earlier export at" in capsys.readouterr().err
    assert sorted(path.name for path in (zoo / NAME).rglob("*")) == before


def test_the_bundle_is_that_of_what_was_trained(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "teacher.json").write_text("{}")
    (tmp_path / "diffusion" / "pipeline").mkdir(parents=True)
    assert bundle_of(tmp_path / "teacher") == "teacher_lora"
    assert bundle_of(tmp_path / "diffusion") == "diffusion_synthesis"
    assert bundle_of(tmp_path) == bundle_of(None) == "segmentation"


class RecordingApi:
    """Replaces the hub."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []

    def create_repo(self, repo_id: str, **options: object) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))

    def upload_folder(self, **options: object) -> None:
        self.calls.append(("upload_folder", options))

    def upload_file(self, **options: object) -> RecordingApi:
        self.calls.append(("upload_file", options))
        return self

    @property
    def commit_url(self) -> str:
        return "https://hub/commit/1"


def test_dry_run_exports_lists_what_would_be_sent_and_sends_nothing(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "HfApi", lambda: pytest.fail("a dry run must not reach for the hub"))
    assert export(student, *REPOSITORY, "--dry-run", "--card", CARD, "--output-dir", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "license: cc-by-nc-sa-4.0" in shown and "non_commercial: true" in shown
    size = (student / "models" / "model.pt").stat().st_size
    assert f"{size}  models/model.pt" in shown and "README.md" in shown
    assert shown.endswith(" files. Nothing was uploaded.\n")
    assert f"{len(list(hub.files_to_send(tmp_path / NAME))) + 1} files." in shown


def test_an_exported_bundle_is_sent_as_it_is_and_then_its_card(
    shipped_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    api = RecordingApi()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    folder = shipped_zoo / NAME
    assert export(folder, *REPOSITORY, "--private") == 0
    assert [name for name, _ in api.calls] == ["create_repo", "upload_folder", "upload_file"]
    created, sent, card = (options for _, options in api.calls)
    assert created == {"repo_id": "owner/abdomen", "private": True, "exist_ok": True}
    assert sent["folder_path"] == folder and "eval/*" in sent["ignore_patterns"]  # type: ignore[operator]
    assert card["path_in_repo"] == "README.md" and b"non-commercial" in card["path_or_fileobj"]  # type: ignore[operator]
    assert capsys.readouterr().out == "Commit: https://hub/commit/1\n"
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_upload_ends_in_one_line(
    shipped_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9", token="hf_" + "a" * 34))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert export(shipped_zoo / NAME, *REPOSITORY) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tskd export: error: Expected to upload ")
    assert "Connection refused; check the network" in line
