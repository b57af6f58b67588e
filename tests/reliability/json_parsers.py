"""Parsers of JSON and text: datalist, task, lists and records of every stage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests.reliability.subject import Case, Subject, require
from tskd_monai.data.datalist import SECTIONS, load_datalist
from tskd_monai.data.gates_file import read_gates
from tskd_monai.data.task import Intensity, Label, Task, TrainingImages, load_task, save_task
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.evaluation.report.pipeline_content import read_history
from tskd_monai.evaluation.summary import COLUMNS, read_metrics
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.inference.case_records import read_case_record
from tskd_monai.inference.exported_files import exported_file, is_accepted

HASH = "a" * 64
CODES = {"category": ["123037004", "SCT", "Anatomical Structure"], "type": ["10200004", "SCT", "Liver"]}
TASK = Task(
    name="abdomen",
    labels=(Label(0, "background"), Label(63, "liver", CODES), Label(300, "spleen")),
    channels=1,
    image_size=(32, 48),
    pixdim=(1.5, 1.5),
    axcodes="PLS",
    intensity=Intensity("percentile", 0.5, 99.5),
    class_frequencies=(0.9, 0.07, 0.03),
    keep_largest_component=(63,),
    training_images=TrainingImages((320.0, 380.0), (1.25, 1.5), (5.0, 7.7), (0.0, 995.0)),
)


def _write_json(folder: Path, name: str, content: Any) -> list[Case]:
    write_json(folder / name, content)
    return [Case(folder, (name,))]


def _write_datalists(folder: Path) -> list[Case]:
    cases = []
    for name, folds in (("plain", False), ("folds", True)):
        content: dict[str, Any] = {"labels": {"0": "background", "1": "liver"}, "name": "abdomen"}
        for number, section in enumerate(SECTIONS):
            keys = ("image",) if section == "unlabeled" else ("image", "label")
            cases_of = [f"{section}{index}" for index in range(2)]
            content[section] = [
                {**{key: f"{key}s/{case}.nii.gz" for key in keys}, "case": case if number else index}
                for index, case in enumerate(cases_of)
            ]
            for key in keys:
                (folder / name / f"{key}s").mkdir(parents=True, exist_ok=True)
                for case in cases_of:
                    (folder / name / f"{key}s" / f"{case}.nii.gz").touch()
        if folds:
            content["folds"] = [{"training": [0, "validation1"], "validation": ["validation0"], "test": [1]}]
        cases += _write_json(folder / name, "datalist.json", content)
    return cases


def _read_datalist(folder: Path) -> None:
    datalist = load_datalist(folder / "datalist.json", 0 if folder.name == "folds" else None)
    for section in SECTIONS:
        for entry in datalist[section]:
            require(isinstance(entry["case"], str) and bool(entry["case"]), f"a case is {entry['case']!r}")
            for key in ("image",) if section == "unlabeled" else ("image", "label"):
                require(Path(entry[key]).exists(), f"{key} is {entry[key]!r}")


def _write_tasks(folder: Path) -> list[Case]:
    save_task(TASK, folder / "task.json")
    return [Case(folder, ("task.json",))]


def _read_task(folder: Path) -> None:
    task = load_task(folder / "task.json")
    save_task(task, folder / "again.json")
    require(load_task(folder / "again.json") == task and len(task.hash) == 64, "it does not come back equal")
    numbers = [*task.pixdim, task.intensity.lower, task.intensity.upper, *task.class_frequencies]
    require(all(math.isfinite(number) for number in numbers), "a number is not finite")
    whole = [task.channels, *task.image_size, *task.label_values, *task.keep_largest_component]
    require(all(type(number) is int for number in whole), "a number is not whole")
    require(all(type(name) is str and name for name in (task.name, *task.foreground.values())), "a name is no text")
    require(len(task.class_frequencies) in (0, task.num_classes), "frequencies are of other classes")


def _write_transfer_set(folder: Path) -> list[Case]:
    entries = []
    for index in range(3):
        image, label = folder / f"images/{index:06d}.png", folder / f"labels/{index:06d}.png"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
        entry = {"image": f"images/{image.name}", "label": f"labels/{label.name}", "case": f"synthetic_{index:06d}",
                 "sha256": file_sha256(image), "mask_sha256": file_sha256(label), "origin": "synthetic",
                 "seed": index, "condition": None}  # fmt: skip
        entries.append(entry)
    content = {
        "format_version": 2, "task_hash": HASH, "checkpoint_sha256": "c" * 64, "image_size": [16, 16], "channels": 1,
        "pixdim": [1.5, 1.5], "sampler": "dpmsolver++", "num_inference_steps": 20, "batch_size": 8, "base_seed": 0,
        "condition": {"kind": "none"}, "unlabeled": entries[:2], "rejected": entries[2:],
    }  # fmt: skip
    return _write_json(folder, "transfer_set.json", content)


def _read_transfer_set(folder: Path) -> None:
    for entry in load_transfer_set(folder, HASH, rejected=True):
        for key in {"image", "label"} & set(entry):
            require(Path(entry[key]).is_relative_to(folder.resolve()), f"{key} is {entry[key]!r}")


def _write_gates(folder: Path) -> list[Case]:
    interval = {"mean": 0.25, "low": -0.01, "high": 0.5}
    scores = {"threshold": 0.06, "real": [0.07, 0.1, 0.2], "synthetic": [0.01, 0.02, 0.1, 0.12]}
    content = {
        "format_version": 2, "task_hash": HASH, "checkpoint_sha256": "c" * 64,
        "settings": {"confidence_quantile": 0.05, "near_copy_quantile": 0.01, "encoder": "vit", "kid_subset_size": 50,
                     "kid_subsets": 200, "seed": 0},
        "confidence": {"threshold": 0.7, "validation": [0.8, 0.9], "synthetic": [0.6, 0.9, 0.91, 0.92]},
        "memorisation": {"pixels": scores, "features": scores},
        "quality": {"kid": {"synthetic_validation": interval, "training_validation": interval},
                    "ms_ssim": {"synthetic": interval, "training": interval},
                    "sharpness": {"synthetic": interval, "training": interval}},
        "verdict": {"passed": False, "reason": "The images are blurred.", "use_failed": False},
        "counts": {"sampled": 4, "accepted": 1, "near_copies": 2, "low_confidence": 1},
    }  # fmt: skip
    return _write_json(folder, "gates.json", content)


def _write_export(folder: Path) -> list[Case]:
    for name in ("model.pt", "model.onnx", "model.xml", "model.bin"):
        (folder / name).write_bytes(b"\x00" + name.encode())  # text would be rejected as weights
    files = {name: file_sha256(folder / name) for name in ("model.onnx", "model.xml", "model.bin")}
    rows = [
        {"engine": "openvino", "precision": precision, "dice": 0.999, "accepted": precision != "int8"}
        for precision in ("fp32", "bf16", "int8")
    ]
    content = {"weights_sha256": file_sha256(folder / "model.pt"), "task": HASH, "files": files, "parity": rows}
    return _write_json(folder, "export.json", content)


def _read_export(folder: Path) -> None:
    exported_file(folder, "model.onnx")
    exported_file(folder, "model.xml")
    require(is_accepted(folder, "openvino", "bf16") in (True, False), "accepted is neither")


def _write_history(folder: Path) -> list[Case]:
    rows = [{"epoch": epoch, "iteration": 10 * epoch, "seconds": 1.5, "train_loss": 0.5} for epoch in range(1, 4)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [Case(folder, ("history.jsonl",))]


def _write_metrics(folder: Path) -> list[Case]:
    rows = [",".join(COLUMNS), "a,1,liver,0.9,0.8,2.5,1.0,0.9,1500.0,1490.0,0", "b,1,liver,,,,,,0.0,1490.0,1"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    return [Case(folder, ("metrics.csv",))]


def _read_metrics(folder: Path) -> None:
    for row in read_metrics(folder / "metrics.csv"):
        require(type(row["label"]) is int and type(row["dice"]) is float and bool(row["name"]), f"a row is {row}")


def _write_study(folder: Path) -> list[Case]:
    common = {"study": "0123456789abcdef", "name": "a"}
    done = {**common, "status": "done", "seconds": 1.5, "outputs": ["a_seg.nii.gz"], "volumes_ml": {"liver": 1500.0,
            "spleen": 200.5}, "unlike_training": "field of view 40 mm"}  # fmt: skip
    failed = {**common, "status": "failed", "message": "Expected a complete NIfTI file, found a.nii.gz truncated"}
    return [*_write_json(folder / "done", "0a1b.json", done), *_write_json(folder / "failed", "0a1b.json", failed)]


def _read_study(folder: Path) -> None:
    record = read_case_record(folder / "0a1b.json", TASK)
    require(all("/" not in name for name in record.get("outputs", [])), "an output lies elsewhere")


def _write_records(folder: Path) -> list[Case]:
    return _write_json(folder, "record.json", {"stage": "x", "settings": {"rank": 4}, "results": {"dice": [0.5, None]}})


SUBJECTS = (
    Subject("datalist", 20_000, _write_datalists, _read_datalist),
    Subject("task", 20_000, _write_tasks, _read_task),
    Subject("transfer set", 12_000, _write_transfer_set, _read_transfer_set),
    Subject("gates", 8_000, _write_gates, read_gates),
    Subject("export record", 6_000, _write_export, _read_export),
    Subject("training history", 3_000, _write_history, lambda folder: read_history(folder / "history.jsonl")),
    Subject("metrics table", 3_000, _write_metrics, _read_metrics),
    Subject("study record", 3_000, _write_study, _read_study),
    Subject("any record", 3_000, _write_records, lambda folder: read_json(folder / "record.json")),
)
