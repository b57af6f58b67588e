from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.inference import engines
from tskd_monai.inference.engines import OnnxRuntimeEngine, OpenVinoEngine, choose_engine
from tskd_monai.inference.export import Case, export_student, load_student, parity_rows, parity_table
from tskd_monai.inference.exported_files import RECORD
from tskd_monai.inference.label_map_inferer import TorchEngine
from tskd_monai.networks.students import build_student

TEMPLATE = ROOT / "bundles" / "segmentation"
TASK = Task(
    name="tiny",
    labels=(Label(0, "background"), Label(1, "liver"), Label(4, "spleen")),
    channels=1,
    image_size=(32, 48),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed (extra openvino)")


def write_bundle(folder: Path) -> Path:
    torch.manual_seed(0)
    weights = build_student("compact_unet_small", TASK.channels, TASK.num_classes, TASK.image_size).state_dict()
    write_student_bundle(TEMPLATE, folder, TASK, "compact_unet_small", weights)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a student bundle with every graph that the installed packages can export."""
    bundle = write_bundle(tmp_path_factory.mktemp("exported") / "student")
    export_student(bundle, [name for name in ("onnxruntime", "openvino") if find_spec(name)])
    return bundle


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """Returns a copy of its models to damage."""
    models = tmp_path / "models"
    models.mkdir()
    for path in (exported / "models").iterdir():
        (models / path.name).write_bytes(path.read_bytes())
    return models


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_engines_compute_what_torch_does(exported: Path, name: str, batch: int) -> None:
    network, _ = load_student(exported)
    windows = torch.rand(batch, 1, 32, 48)
    found = choose_engine(name, "fp32", exported / "models")(network)(windows)
    torch.testing.assert_close(found, network(windows), rtol=1e-3, atol=1e-3)


def test_torch_is_the_network(exported: Path) -> None:
    network, _ = load_student(exported)
    assert choose_engine("torch")(network) is network


def test_auto_takes_what_was_exported(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = choose_engine("auto", models=exported / "models")
    assert isinstance(engine, OpenVinoEngine if find_spec("openvino") else OnnxRuntimeEngine)
    assert "was exported from these weights" in caplog.text
    assert isinstance(choose_engine("auto", models=exported / "models", device="cuda"), TorchEngine)
    assert "the network runs on cuda" in caplog.text


def test_auto_without_an_export_is_torch_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert isinstance(choose_engine(models=write_bundle(tmp_path / "student") / "models"), TorchEngine)
    assert "Expected model.onnx and export.json beside model.pt" in caplog.text


def test_export_of_other_weights_is_not_taken(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = torch.load(copy / "model.pt", weights_only=True)
    torch.save({key: value + 1 for key, value in weights.items()}, copy / "model.pt")
    with pytest.raises(ValueError, match=r"model\.onnx made from model\.pt as it is, found .* other weights; write it"):
        choose_engine("onnxruntime", models=copy)
    caplog.set_level(logging.INFO)
    assert isinstance(choose_engine("auto", models=copy), TorchEngine)
    assert "made from other weights" in caplog.text


def test_file_that_changed_is_not_taken(copy: Path) -> None:
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-1])
    with pytest.raises(ValueError, match="as it was exported, found it changed since"):
        choose_engine("onnxruntime", models=copy)


@needs_openvino
def test_precision_follows_the_checks_of_the_export(copy: Path) -> None:
    record = read_json(copy / RECORD)
    has_bfloat16 = engines.openvino_has_bfloat16()
    accepted = {row["precision"]: row["accepted"] for row in record["parity"]}
    assert accepted == {"fp32": True, "bf16": False} if has_bfloat16 else {"fp32": True}
    assert choose_engine("openvino", models=copy).precision == "fp32"  # type: ignore[attr-defined]
    for row in record["parity"]:
        row["accepted"] = True
    write_json(copy / RECORD, record)
    chosen = choose_engine("openvino", models=copy).precision  # type: ignore[attr-defined]
    assert chosen == ("bf16" if has_bfloat16 else "fp32")
    with pytest.raises(FileNotFoundError, match=r"model_int8\.xml"):
        choose_engine("openvino", "int8", copy)


def test_bf16_is_refused_on_a_cpu_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: name)
    monkeypatch.setattr(engines, "openvino_has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="Expected a CPU that computes in bf16 for --precision bf16, found .*fp32"):
        choose_engine("openvino", "bf16", tmp_path)


@needs_openvino
def test_what_openvino_emulates_is_not_taken(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = read_json(copy / RECORD)
    write_json(copy / RECORD, {**record, "parity": [{**row, "accepted": True} for row in record["parity"]]})
    monkeypatch.setattr(engines, "cpu_computes_bfloat16", lambda: False)
    assert choose_engine("openvino", models=copy).precision == "fp32"  # type: ignore[attr-defined]


def test_missing_package_names_its_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnxruntime.*pip install onnxruntime .*`onnx`"):
        choose_engine("onnxruntime", models=exported / "models")
    with pytest.raises(ImportError, match=r"needs openvino.*pip install openvino .*`openvino`"):
        choose_engine("openvino", models=exported / "models")
    assert isinstance(choose_engine("auto", models=exported / "models"), TorchEngine)


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("tensorrt", "auto", r"--engine among .* found tensorrt and auto"),
        ("torch", "fp16", r"--precision among .* found torch and fp16"),
        ("torch", "int8", "--precision fp32 with the engine torch, found int8; use --engine openvino"),
    ],
)
def test_unknown_names_are_refused(name: str, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_engine(name, precision)


def labelled_case() -> Case:
    windows = torch.zeros(4, 1, 32, 48)
    windows[:, :, 4:20, 4:20] = 1
    return Case(windows, windows[:, 0].long())


def threshold(windows: torch.Tensor) -> torch.Tensor:
    return torch.cat([0.5 - windows, windows - 0.5, windows - 2], dim=1)


def test_parity_counts_differences_and_accepts_by_dice() -> None:
    def shifted(windows: torch.Tensor) -> torch.Tensor:
        return threshold(windows.roll(1, dims=2))

    def scaled(windows: torch.Tensor) -> torch.Tensor:
        return 2 * threshold(windows)

    candidates = {("openvino", "int8"): shifted, ("openvino", "bf16"): scaled}
    rows = parity_rows(threshold, candidates, [labelled_case()], 3)
    torch_row, int8, bf16 = rows
    assert torch_row["max_difference"] == 0 and torch_row["dice"] == 1.0 and torch_row["accepted"]
    assert int8["disagreeing_share"] == pytest.approx(2 * 16 / (32 * 48))
    assert int8["dice"] == pytest.approx(15 / 16) and not int8["accepted"]
    assert bf16["max_difference"] == 2.0 and bf16["disagreeing_share"] == 0 and bf16["accepted"]
    assert "| openvino | int8 | 1 | 2.0833 % | 0.9375 | no |" in parity_table(rows)


def test_without_labels_only_fp32_is_accepted() -> None:
    rows = parity_rows(threshold, {("openvino", "bf16"): threshold}, [Case(torch.rand(9, 1, 32, 48))], 3)
    assert [(row["dice"], row["accepted"]) for row in rows] == [(None, True), (None, False)]


def test_int8_without_labels_to_accept_it_by_is_refused(exported: Path) -> None:
    with pytest.raises(ValueError, match="labelled validation images to accept int8 by"):
        export_student(exported, ["openvino"], calibration=[Case(torch.rand(1, 1, 32, 48))])


def test_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a student bundle, found no configs/inference\.json"):
        load_student(tmp_path)


@needs_openvino
@pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed (extra openvino)")
def test_int8_that_loses_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "student")
    case = labelled_case()
    rows = export_student(bundle, ["openvino"], [case], [case])
    kept = {row["precision"]: row["accepted"] for row in rows}["int8"]
    assert (bundle / "models/model_int8.xml").is_file() == kept
    monkeypatch.setattr("tskd_monai.inference.export.MAX_DICE_DROP", -1.0)
    export_student(bundle, ["openvino"], [case], [case])
    assert not (bundle / "models/model_int8.xml").exists() and not (bundle / "models/model_int8.bin").exists()
    assert "model_int8.xml" not in read_json(bundle / "models/export.json")["files"]
