"""A student bundle's network as files of ONNX and OpenVINO, each compared with the network itself before it is used.

`export_student` writes the files and `export.json`, which states the weights they were made from and the table of
`parity_rows`: an engine is accepted when it agrees with torch on validation images.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from torch import Tensor, nn

from tskd_monai.data.neighbours import with_neighbours
from tskd_monai.data.task import Task
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import write_json
from tskd_monai.inference.engines import OnnxRuntimeEngine, OpenVinoEngine, openvino_has_bfloat16
from tskd_monai.inference.exported_files import (
    ONNX_FILE,
    OPENVINO_FILE,
    OPENVINO_INT8_FILE,
    RECORD,
    WEIGHTS,
    file_record,
    weights_record,
)
from tskd_monai.inference.handlers import existing_checkpoint
from tskd_monai.inference.label_map_inferer import Engine, Predictor
from tskd_monai.networks.weights_file import read_weights
from tskd_monai.transforms.pipelines import training_preprocessing

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger(__name__)

ONNX_OPSET = 20
STACK_TRACE = "pkg.torch.onnx.stack_trace"
"""Node metadata in which torch records file paths of the exporting machine; removed."""
CALIBRATION_WINDOWS = 300
"""Slices that calibrate the ranges of int8; nncf's default."""
MAX_DICE_DROP = 0.005
"""Half a Dice point: an engine that loses this much on the validation images is not accepted."""
WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class Case:
    """One image at the network's resolution.

    Attributes:
        windows: slices (D, C, H, W), with the neighbours that the network takes.
        classes: class indices (D, H, W) of its label; None without one.
    """

    windows: Tensor
    classes: Tensor | None = None


def load_cases(entries: Sequence[Mapping[str, str]], task: Task) -> Iterator[Case]:
    """Yields the cases of a datalist's entries, padded or cropped to the task's image size.

    Args:
        entries: items with `image` and optionally `label`.
        task: task of the student.
    """
    for entry in entries:
        keys = [key for key in ("image", "label") if key in entry]
        item = training_preprocessing(task, keys)({key: entry[key] for key in keys})
        label = item["label"].as_tensor()[0].movedim(-1, 0).long() if "label" in item else None
        windows = with_neighbours(item["image"].as_tensor(), task.neighbours)
        yield Case(windows.movedim(-1, 0).contiguous(), label)


def random_case(task: Task, seed: int = 0) -> Case:
    """Returns uniform noise in [0, 1], which shows whether an export agrees with torch, not how well it segments."""
    shape = (WINDOWS_AT_ONCE, task.student_channels, *task.image_size)
    return Case(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))


def load_student(bundle: str | Path) -> tuple[nn.Module, Task]:
    """Returns the trained network of a student bundle, in evaluation mode on the CPU, and its task.

    Raises:
        FileNotFoundError: when the bundle lacks its config, its task or its weights.
    """
    bundle = Path(bundle)
    config = bundle / "configs" / "inference.json"
    if not config.is_file():
        raise FileNotFoundError(f"Expected a student bundle, found no configs/inference.json in {bundle}.")
    parser = ConfigParser()
    parser.read_config(config)
    parser["bundle_root"] = str(bundle)
    weights = existing_checkpoint(bundle / "models" / WEIGHTS)
    network = cast(nn.Module, parser.get_parsed_content("network_def"))
    network.load_state_dict(read_weights(Path(weights)))
    task = "task_def" if "task_def" in parser else "plan"  # its id in bundles that 0.1 wrote
    return network.eval(), parser.get_parsed_content(task)


def export_student(
    bundle: str | Path,
    engines: Sequence[str],
    calibration: Sequence[Case] = (),
    validation: Sequence[Case] = (),
) -> list[dict[str, Any]]:
    """Writes the exported files and `export.json` into the bundle's `models/`; returns the rows of the parity table.

    An int8 graph that loses half a Dice point is deleted again. The record is written last, so no engine accepts the
    files of an interrupted export.

    Args:
        bundle: folder of the student bundle.
        engines: any of `onnxruntime` and `openvino`.
        calibration: images that calibrate int8; without any, no int8 graph is written.
        validation: labelled images on which int8 and bf16 are accepted or rejected. Without any, parity is measured on
            noise.

    Raises:
        ImportError: when a package is missing; names the extra.
        ValueError: when there are calibration images but no labelled validation image.
    """
    models = Path(bundle) / "models"
    network, task = load_student(bundle)
    if calibration and not any(case.classes is not None for case in validation):
        raise ValueError("Expected labelled validation images to accept int8 by, found none; see --calibration.")
    _require_exporters(engines)
    (models / RECORD).unlink(missing_ok=True)
    candidates = _write_files(network, task, models, engines, calibration)
    rows = parity_rows(
        network,
        {key: engine(network) for key, engine in candidates.items()},
        list(validation) or [random_case(task)],
        task.num_classes,
    )
    _remove_refused_int8(models, rows)
    names = [models / name for name in (ONNX_FILE, OPENVINO_FILE, OPENVINO_INT8_FILE)]
    files = {name: digest for path in names if path.is_file() for name, digest in file_record(path).items()}
    record = {**weights_record(models), "task": task.hash, "files": files, "parity": rows}
    write_json(models / RECORD, record)
    return rows


def _write_files(
    network: nn.Module, task: Task, models: Path, engines: Sequence[str], calibration: Sequence[Case]
) -> dict[tuple[str, str], Engine]:
    """Writes the files; returns an engine for each, by (engine, precision)."""
    for name in (ONNX_FILE, OPENVINO_FILE, OPENVINO_INT8_FILE):
        _remove(models / name)
    export_onnx(network, task, models / ONNX_FILE)
    candidates: dict[tuple[str, str], Engine] = {}
    if "onnxruntime" in engines:
        candidates["onnxruntime", "fp32"] = OnnxRuntimeEngine(models / ONNX_FILE)
    if "openvino" in engines:
        export_openvino(models / ONNX_FILE, models / OPENVINO_FILE)
        for precision in ("fp32", "bf16") if openvino_has_bfloat16() else ("fp32",):
            candidates["openvino", precision] = OpenVinoEngine(models / OPENVINO_FILE, precision)
        if calibration:
            windows = torch.cat([case.windows for case in calibration])
            quantise_openvino(models / OPENVINO_FILE, windows, models / OPENVINO_INT8_FILE)
            candidates["openvino", "int8"] = OpenVinoEngine(models / OPENVINO_INT8_FILE, "int8")
    return candidates


def export_onnx(network: nn.Module, task: Task, path: Path) -> None:
    """Writes a network as ONNX from `images` (B, C, H, W) to `logits` (B, K, H, W): any B, H and W of the task."""
    images = torch.rand(2, task.student_channels, *task.image_size)  # a batch of 1 would be exported as a constant
    program = torch.onnx.export(
        with_channelwise_norms(network),
        (images,),
        dynamo=True,
        opset_version=ONNX_OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop(STACK_TRACE, None)
    with atomic_path(path) as temporary:
        program.save(str(temporary))


def export_openvino(onnx_file: Path, path: Path) -> None:
    """Writes an ONNX network as an OpenVINO graph in full precision, `.xml` and `.bin`."""
    import openvino

    _save_openvino(openvino.convert_model(onnx_file), path)


def quantise_openvino(graph_file: Path, windows: Tensor, path: Path) -> None:
    """Writes an OpenVINO graph in int8.

    Args:
        graph_file: graph in full precision.
        windows: calibration images (N, C, H, W), of which at most 300 are used, evenly spaced.
        path: `.xml` of the quantised graph.
    """
    import nncf
    import openvino

    chosen = np.linspace(0, len(windows) - 1, min(len(windows), CALIBRATION_WINDOWS)).round().astype(int)
    images = nncf.Dataset([windows[index : index + 1].numpy() for index in np.unique(chosen).tolist()])
    graph = openvino.Core().read_model(graph_file)
    quantised = nncf.quantize(
        graph,
        images,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=CALIBRATION_WINDOWS,
        # Keeps attention and normalisation in full precision, which costs U-Nets nothing.
        model_type=nncf.ModelType.TRANSFORMER,
    )
    _save_openvino(quantised, path)


def _save_openvino(graph: openvino.Model, path: Path) -> None:
    """Writes the weights before the graph, which cannot be read without them."""
    import openvino

    with atomic_path(path) as temporary:
        openvino.save_model(graph, temporary, compress_to_fp16=False)
        temporary.with_suffix(".bin").replace(path.with_suffix(".bin"))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.suffix == ".xml":
        path.with_suffix(".bin").unlink(missing_ok=True)


def _remove_refused_int8(models: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        if row["precision"] == "int8" and not row["accepted"]:
            logger.warning("int8 loses half a Dice point or more on the validation images; it is deleted.")
            _remove(models / OPENVINO_INT8_FILE)


def _require_exporters(engines: Sequence[str]) -> None:
    wanted = [("onnx", "onnx"), ("onnxscript", "onnx")]
    wanted += [("openvino", "openvino"), ("nncf", "openvino")] if "openvino" in engines else []
    missing = sorted({(package, extra) for package, extra in wanted if find_spec(package) is None})
    if missing:
        extras = ",".join(sorted({extra for _, extra in missing}))
        raise ImportError(
            f"The export needs {', '.join(package for package, _ in missing)}, not installed; "
            f"install the extras: pip install 'tskd-monai[{extras}]'."
        )


class ChannelwiseGroupNorm(nn.Module):
    """GroupNorm decomposed into means and variances of single channels.

    OpenVINO runs a GroupNorm over reshaped maps and converts their layout back and forth, which takes a third of the
    time of the ViT student in fp32.

    Args:
        norm: affine GroupNorm whose parameters are used.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to the same shape."""
        means = maps.mean((2, 3))
        variances = (maps - means[..., None, None]).square().mean((2, 3))
        means_in_group = means.unflatten(1, (self.groups, -1))
        mean = means_in_group.mean(2, keepdim=True)
        # Channels are of equal size: variance of the group = mean of their variances + variance of their means.
        variance = (variances.view_as(means_in_group) + (means_in_group - mean).square()).mean(2, keepdim=True)
        scale = self.weight * torch.rsqrt(variance + self.eps).expand_as(means_in_group).flatten(1)
        shift = self.bias - mean.expand_as(means_in_group).flatten(1) * scale
        return maps * scale[..., None, None] + shift[..., None, None]


def with_channelwise_norms(network: nn.Module) -> nn.Module:
    """Returns a copy of a network in which every GroupNorm is decomposed."""
    network = copy.deepcopy(network)
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.GroupNorm)]
    for name, norm in norms:
        network.set_submodule(name, ChannelwiseGroupNorm(norm))
    return network


@dataclass
class _Sums:
    """Running totals of how one engine differs from the network."""

    largest: float = 0.0
    disagreeing: int = 0
    pixels: int = 0
    dice: list[float] = field(default_factory=list)


@torch.no_grad()
def parity_rows(
    reference: Predictor, candidates: Mapping[tuple[str, str], Predictor], cases: Sequence[Case], num_classes: int
) -> list[dict[str, Any]]:
    """Returns one row for the reference and one for each candidate.

    Args:
        reference: the network itself.
        candidates: exported networks by (engine, precision).
        cases: images to compare on.
        num_classes: K.

    Returns:
        Rows with `engine`, `precision`, `max_difference` of logits, `disagreeing_share` (fraction of pixels whose class
        differs), `dice` (mean over cases of the mean over foreground classes present; None without labels) and
        `accepted`: whether Dice is less than half a point below the reference. Without labels only fp32 is accepted.
    """
    predictors: dict[tuple[str, str], Predictor] = {("torch", "fp32"): reference, **candidates}
    sums = {key: _Sums() for key in predictors}
    for case in cases:
        expected = _logits(reference, case.windows)
        for key, predict in predictors.items():
            found = expected if predict is reference else _logits(predict, case.windows)
            _add(sums[key], found, expected, case.classes, num_classes)
    best = sums["torch", "fp32"].dice
    return [_row(key, of_one, fmean(best) if best else None) for key, of_one in sums.items()]


def parity_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        "| engine | precision | max difference of logits | pixels of another class | Dice | accepted |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        dice = "" if row["dice"] is None else f"{row['dice']:.4f}"
        lines.append(
            f"| {row['engine']} | {row['precision']} | {row['max_difference']:.2g} | "
            f"{100 * row['disagreeing_share']:.4f} % | {dice} | {'yes' if row['accepted'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def _logits(predict: Predictor, windows: Tensor) -> Tensor:
    return torch.cat([predict(few) for few in windows.split(WINDOWS_AT_ONCE)])


def _add(sums: _Sums, found: Tensor, expected: Tensor, classes: Tensor | None, num_classes: int) -> None:
    predicted = found.argmax(dim=1)
    sums.largest = max(sums.largest, float((found - expected).abs().max()))
    sums.disagreeing += int((predicted != expected.argmax(dim=1)).sum())
    sums.pixels += predicted.numel()
    if classes is not None:
        prediction, label = (one_hot(each[None, None], num_classes) for each in (predicted, classes))
        dice = compute_dice(prediction, label, include_background=False)
        if not dice.isnan().all():
            sums.dice.append(float(dice.nanmean()))


def _row(key: tuple[str, str], sums: _Sums, reference_dice: float | None) -> dict[str, Any]:
    dice = fmean(sums.dice) if sums.dice else None
    measured = dice is not None and reference_dice is not None
    accepted = reference_dice - dice < MAX_DICE_DROP if measured else key[1] == "fp32"  # type: ignore[operator]
    return {
        "engine": key[0],
        "precision": key[1],
        "max_difference": sums.largest,
        "disagreeing_share": sums.disagreeing / sums.pixels,
        "dice": dice,
        "accepted": accepted,
    }
