"""Attacks by options, tasks, manifests, datalists and metadata that contain code or lead outside their folder."""

from __future__ import annotations

import json
import logging.config
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle import run as run_bundle
from monai.data import MetaTensor
from PIL import Image

from tests.attacks.attack import Attack, marker, write_marker_code
from tests.support.paths import ROOT
from tskd_monai.bundle.audit import AllowList, unlisted_code
from tskd_monai.bundle.options import plain_option
from tskd_monai.data import transfer_set
from tskd_monai.data.task import Intensity, Label, Task, load_task
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.evaluation.report.tables import patient_table
from tskd_monai.files.checksum import file_sha256
from tskd_monai.inference.cases import find_cases
from tskd_monai.inference.outputs import save_segmentation

Monkey = pytest.MonkeyPatch
EXPRESSION = f"${write_marker_code()}"
ALLOWED = AllowList.read(ROOT / "tskd_monai" / "bundle" / "allow_list.json")
METADATA: dict[str, Any] = {"version": "1", "network_data_format": {"inputs": {"image": {}}, "outputs": {"pred": {}}}}
TASK: dict[str, Any] = {
    "format_version": 1, "name": "tiny", "channels": 1, "image_size": [32, 32], "pixdim": [1, 1], "axcodes": "PLS",
    "labels": [{"value": 0, "name": "background"}, {"value": 1, "name": "liver"}],
    "intensity": {"mode": "percentile", "lower": 1, "upper": 99},
}  # fmt: skip


def _option(name: str, value: Any) -> Attack:
    """A user's option; the bundle runner would evaluate it."""

    def runs(folder: Path, monkey: Monkey) -> bool:
        bundle = _bundle(folder, config={"image": None, "run": ["@image"]})
        given = value(folder) if callable(value) else value
        read = DefaultParseValue(given) if isinstance(given, str) else given  # as on the runner's command line
        run_bundle(config_file=str(bundle / "configs" / "inference.json"), logging_file=False, image=read)
        return marker().exists()

    def check(folder: Path) -> None:
        plain_option("image", value(folder) if callable(value) else value)

    return Attack(f"option that is {name}", lambda folder: folder, check, "which MONAI would evaluate", runs)


def _imports_os(option: str, monkey: Monkey) -> bool:
    """Without the guard the module is available to every expression of the config."""
    parser = ConfigParser({"imports": [option], "cwd": "$os.getcwd()"})
    return parser.get_parsed_content("imports") and parser.get_parsed_content("cwd") == str(Path.cwd())


def _referred_file(folder: Path) -> str:
    (folder / "planted.json").write_text(json.dumps({"a": EXPRESSION}))
    return "%planted.json#a"


def _bundle(folder: Path, config: Any = None, metadata: Any = None) -> Path:
    bundle = folder / "bundle"
    (bundle / "configs").mkdir(parents=True, exist_ok=True)
    (bundle / "configs" / "inference.json").write_text(
        json.dumps({"run": ["$1"], "initialize": ["$1"], **(config or {})})
    )
    (bundle / "configs" / "metadata.json").write_text(json.dumps({**METADATA, **(metadata or {})}))
    return bundle


def _workflow(bundle: Path) -> ConfigWorkflow:
    files = [str(bundle / "configs" / name) for name in ("inference.json", "metadata.json")]
    workflow = ConfigWorkflow(files[0], files[1], logging_file=False, workflow_type="infer")
    workflow.initialize()
    return workflow


def _task_file(**changes: Any) -> Callable[[Path], Path]:
    def plant(folder: Path) -> Path:
        (folder / "task.json").write_text(json.dumps({**TASK, **changes}))
        return folder / "task.json"

    return plant


def _label(name: str) -> dict[str, Any]:
    return {"labels": [TASK["labels"][0], {"value": 1, "name": name}]}


def _metadata_runs(path: Path, monkey: Monkey) -> bool:
    """A student's metadata list the task's classes, and MONAI evaluates them when they are requested."""
    names = {str(label["value"]): label["name"] for label in json.loads(path.read_text())["labels"]}
    formats = {"inputs": {"image": {}}, "outputs": {"pred": {"channel_def": names}}}
    return (
        bool(_workflow(_bundle(path.parent, metadata={"network_data_format": formats})).channel_def)
        and marker().exists()
    )


def _is_formula(path: Path, monkey: Monkey) -> bool:
    return json.loads(path.read_text())["labels"][1]["name"].startswith("=")


def _takes_memory(path: Path, monkey: Monkey) -> bool:
    with pytest.raises(RuntimeError, match="allocate"):
        torch.ones(json.loads(path.read_text())["image_size"])
    return True


def _transfer_set(image: str) -> Callable[[Path], Path]:
    def plant(folder: Path) -> Path:
        """A list whose image is outside the set's folder."""
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "secret.png")
        inside = folder / "set"
        inside.mkdir()
        (inside / "link.png").symlink_to(folder / "secret.png")
        entry = {
            "image": image.replace("ROOT", str(folder)), "case": "a", "origin": "x", "seed": 0, "condition": None,
            "sha256": file_sha256(folder / "secret.png"),
        }  # fmt: skip
        settings: dict[str, Any] = dict.fromkeys(transfer_set.SETTINGS, 0)
        settings |= {
            "format_version": 2,
            "task_hash": "t",
            "checkpoint_sha256": "",
            "image_size": [8, 8],
            "sampler": "",
        }
        settings |= {"pixdim": None, "condition": {}, "unlabeled": [entry]}
        (inside / "transfer_set.json").write_text(json.dumps(settings))
        return inside

    return plant


def _load_set(folder: Path) -> Any:
    return load_transfer_set(folder, "t")


def _reads_outside(folder: Path, monkey: Monkey) -> bool:
    monkey.setattr(Path, "is_relative_to", lambda self, other: True)
    return Path(_load_set(folder)[0]["image"]).samefile(folder.parent / "secret.png")


def _datalist(case: str) -> Callable[[Path], Path]:
    def plant(folder: Path) -> Path:
        (folder / "a.nii").touch()
        entry = {"image": "a.nii", "label": "a.nii", "case": case}
        (folder / "datalist.json").write_text(json.dumps({"training": [], "test": [entry]}))
        return folder / "datalist.json"

    return plant


def _studies(path: Path) -> Any:
    return find_cases(datalist=path)


def _writes_over(path: Path, monkey: Monkey) -> bool:
    """Without the check the output gets the name of another case's: MONAI drops everything before the slash."""
    task = Task("t", (Label(0, "b"), Label(1, "a")), 1, (16, 16), (1, 1), "PLS", Intensity("percentile", 1, 99))
    case = json.loads(path.read_text())["test"][0]["case"]
    meta = {"affine": np.eye(4), "original_affine": np.eye(4), "spatial_shape": (4, 4, 4), "output_name": case}
    save_segmentation(task, path.parent / "out")({"pred": MetaTensor(torch.zeros(1, 4, 4, 4), meta=meta)})
    return (path.parent / "out" / "planted_seg.nii.gz").is_file()


def _unlisted(bundle: Path) -> None:
    found = unlisted_code(bundle, ALLOWED)
    if found:
        raise ValueError("; ".join(f"{finding.file} {finding.position} {finding.kind}" for finding in found))


def _runs_metadata(bundle: Path, monkey: Monkey) -> bool:
    return bool(_workflow(bundle).version is None) and marker().exists()


def _logging(folder: Path) -> Path:
    bundle = _bundle(folder)
    (bundle / "configs" / "logging.conf").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=a\n[formatters]\nkeys=\n[logger_root]\nhandlers=a\n"
        f"[handler_a]\nclass=StreamHandler\nargs=({EXPRESSION[1:]},)\n"
    )
    return bundle


def _evaluates_logging(bundle: Path, monkey: Monkey) -> bool:
    logging.config.fileConfig(bundle / "configs" / "logging.conf", disable_existing_loggers=False)
    logging.getLogger().handlers.clear()
    return marker().exists()


def _module(folder: Path) -> Path:
    bundle = _bundle(folder)
    (bundle / "planted_ignite.py").write_text(EXPRESSION[1:])
    return bundle


def _imports_module(bundle: Path, monkey: Monkey) -> bool:
    monkey.syspath_prepend(str(bundle))  # as the runner does with a bundle's root
    __import__("planted_ignite")
    return marker().exists()


def _onnx(location: str) -> Callable[[Path], Path]:
    def plant(folder: Path) -> Path:
        (folder / "secret.bin").write_bytes(np.arange(4, dtype="f4").tobytes())
        (folder / "models").mkdir()
        (folder / "models" / "own.bin").write_bytes(np.arange(4, dtype="f4").tobytes())
        weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
        weight.external_data.add(key="location", value=location.replace("ROOT", str(folder)))
        values = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight]
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        (folder / "models" / "model.onnx").write_bytes(model.SerializeToString())
        return folder / "models"

    return plant


def _session(models: Path) -> Any:
    session = onnxruntime.InferenceSession(str(models / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros(4, np.float32)})


def _reads_secret(models: Path, monkey: Monkey) -> bool:
    """The guard is ONNX Runtime's own: the same model with its data in the same folder is read."""
    content = (models / "model.onnx").read_bytes()
    model = onnx.ModelProto.FromString(content)
    model.graph.initializer[0].external_data[0].value = "own.bin"
    (models / "model.onnx").write_bytes(model.SerializeToString())
    return _session(models)[0].tolist() == [0, 1, 2, 3]


def _script_in_report(case: str) -> None:
    if "<script>" not in patient_table({"a": _Result(case)}):  # type: ignore[dict-item]
        raise ValueError("escaped")


class _Result:
    """The part of a method's result that the table of patients needs."""

    def __init__(self, case: str) -> None:
        self.dice = {case: 0.5}
        self.method = type("Method", (), {"title": "a"})


def _unescaped(case: str, monkey: Monkey) -> bool:
    monkey.setattr("tskd_monai.evaluation.report.tables.escape", lambda text: text)
    return "<script>" in patient_table({"a": _Result(case)})  # type: ignore[dict-item]


ROWS = [
    _option("an expression", EXPRESSION),
    Attack(
        "option that imports",
        lambda folder: "$import os",
        lambda option: plain_option("image", option),
        r"found '\$import os', which MONAI would evaluate",
        _imports_os,
    ),
    _option("a Python literal of an expression", f"r{EXPRESSION!r}"),
    _option("a list with an expression", [EXPRESSION]),
    _option("a call", lambda folder: {"_target_": "os.mkdir", "path": str(marker())}),
    _option("a text of another file", _referred_file),
    Attack(
        "class named by an expression",
        _task_file(**_label(EXPRESSION)),
        load_task,
        "begin with a letter",
        _metadata_runs,
    ),
    Attack("class named by a formula", _task_file(**_label("=cmd|'/C calc'!A0")), load_task, "letter", _is_formula),
    Attack(
        "task of 10^12 pixels", _task_file(image_size=[10**6] * 2), load_task, "multiples of 16 up to", _takes_memory
    ),
    Attack("list with a path that leads out", _transfer_set("../secret.png"), _load_set, "inside the", _reads_outside),
    Attack("list with an absolute path", _transfer_set("ROOT/secret.png"), _load_set, "inside the", _reads_outside),
    Attack("list with a link", _transfer_set("link.png"), _load_set, "inside the list's folder", _reads_outside),
    Attack("case that is a path", _datalist("../planted"), _studies, "names without /", _writes_over),
    Attack(
        "case that is a formula",
        _datalist("=1+1"),
        _studies,
        "as formulas of a spreadsheet",
        lambda path, monkey: "=1+1",
    ),
    Attack("case with a script", lambda folder: "<script>", _script_in_report, "escaped", _unescaped),
    Attack(
        "expression in a bundle's metadata",
        lambda folder: _bundle(folder, metadata={"version": EXPRESSION + " and None"}),
        _unlisted,
        "metadata.json version expression",
        _runs_metadata,
    ),
    Attack("call in a bundle's logging.conf", _logging, _unlisted, "handler_a#args logging", _evaluates_logging),
    Attack("module in a bundle", _module, _unlisted, "planted_ignite.py  code", _imports_module),
    Attack("ONNX data in another folder", _onnx("../secret.bin"), _session, "escapes", _reads_secret, (Exception,)),
    Attack("ONNX data at an absolute path", _onnx("ROOT/secret.bin"), _session, "bsolute", _reads_secret, (Exception,)),
]
