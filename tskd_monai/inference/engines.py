"""Inference engines: torch, ONNX Runtime or OpenVINO behind one call."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tskd_monai.inference.exported_files import (
    ONNX_FILE,
    OPENVINO_FILE,
    OPENVINO_INT8_FILE,
    exported_file,
    is_accepted,
)
from tskd_monai.inference.label_map_inferer import Engine, Predictor, TorchEngine
from tskd_monai.networks.bfloat16 import cpu_computes_bfloat16, cpu_name

if TYPE_CHECKING:
    import onnxruntime
    import openvino

logger = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "onnxruntime", "openvino")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


class OnnxRuntimeEngine:
    """Runs `model.onnx` with ONNX Runtime on as many threads as torch has.

    Args:
        path: exported network.

    Raises:
        ImportError: when onnxruntime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        _require("onnxruntime", "onnx")
        self.path = Path(path)
        self._session: onnxruntime.InferenceSession | None = None

    def __call__(self, network: Predictor) -> Predictor:
        """Returns the session's predictor; the first call loads the file."""
        import onnxruntime

        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self._session = onnxruntime.InferenceSession(str(self.path), options, ["CPUExecutionProvider"])
        return self._predict

    def _predict(self, windows: Tensor) -> Tensor:
        assert self._session is not None
        (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: _as_array(windows)})
        return torch.from_numpy(logits).to(windows.device)


class OpenVinoEngine:
    """Runs an OpenVINO graph on the CPU, one window per stream (one to two threads each).

    A thread compiles the graph while the first image is read, which takes 0.2 to 0.5 s.

    Args:
        path: `.xml` of the exported network.
        precision: `fp32`, `bf16` (where the CPU supports it) or `int8` (for a quantised graph).

    Raises:
        ImportError: when openvino is not installed.
    """

    def __init__(self, path: str | Path, precision: str = "fp32") -> None:
        _require("openvino", "openvino")
        import_module("openvino")  # an import in the thread would block reading
        self.path = Path(path)
        self.precision = precision
        compiler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compiler")
        self._queue: Future[openvino.AsyncInferQueue] = compiler.submit(self._compile, torch.get_num_threads())
        compiler.shutdown(wait=False)

    def __call__(self, network: Predictor) -> Predictor:
        """Returns the predictor, which waits for the compiled graph on its first call."""
        return self._predict

    def _predict(self, windows: Tensor) -> Tensor:
        images = _as_array(windows)
        queue = self._queue.result()
        found: list[np.ndarray | None] = [None] * len(images)

        def keep(request: Any, index: int) -> None:
            found[index] = request.get_output_tensor(0).data.copy()

        queue.set_callback(keep)
        for index in range(len(images)):
            queue.start_async({0: images[index : index + 1]}, userdata=index, share_inputs=True)
        queue.wait_all()
        return torch.from_numpy(np.concatenate(found)).to(windows.device)  # type: ignore[arg-type]

    def _compile(self, threads: int) -> openvino.AsyncInferQueue:
        """Returns a queue of inference requests of one window each."""
        import openvino

        core = openvino.Core()
        graph = core.read_model(self.path)
        graph.reshape([1, *list(graph.input().partial_shape)[1:]])
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
        }
        return openvino.AsyncInferQueue(core.compile_model(graph, "CPU", options))


def choose_engine(
    name: str = "auto",
    precision: str = "auto",
    models: str | Path = "models",
    device: torch.device | str = "cpu",
) -> Engine:
    """Returns the named engine, or the one that `auto` selects; the log says which and why.

    `auto` selects torch on a GPU and where nothing was exported from the current weights, else OpenVINO or ONNX
    Runtime, in this order, if installed. OpenVINO's `auto` precision is bf16 where the CPU supports it, else int8 if
    exported and accepted, else fp32.

    Args:
        name: `auto`, `torch`, `onnxruntime` or `openvino`.
        precision: `auto` or `fp32`; with OpenVINO also `bf16` or `int8`.
        models: folder of the weights and the exported files.
        device: device of the network.

    Raises:
        FileNotFoundError: when the engine's file is missing.
        ImportError: when the engine is not installed; names the extra.
        ValueError: when a name is unknown, engine or CPU do not support the precision, or the file was exported from
            other weights.
    """
    if name not in ENGINES or precision not in PRECISIONS:
        raise ValueError(
            f"Expected --engine among {ENGINES} and --precision among {PRECISIONS}, found {name} and {precision}."
        )
    if name == "auto":
        name, reason = _pick_engine(Path(models), torch.device(device))
        logger.info("Engine: %s (%s).", name, reason)
    if name == "openvino":
        return _openvino_engine(Path(models), precision)
    if precision not in ("auto", "fp32"):
        raise ValueError(f"Expected --precision fp32 with the engine {name}, found {precision}; use --engine openvino.")
    return TorchEngine() if name == "torch" else OnnxRuntimeEngine(exported_file(models, ONNX_FILE))


def _pick_engine(models: Path, device: torch.device) -> tuple[str, str]:
    """Returns the fastest engine that is available, and the reason."""
    if device.type != "cpu":
        return "torch", f"the network runs on {device.type}"
    reasons = []
    for name, file in (("openvino", OPENVINO_FILE), ("onnxruntime", ONNX_FILE)):
        if find_spec(name) is None:
            reasons.append(f"{name} is not installed")
            continue
        try:
            exported_file(models, file)
        except (FileNotFoundError, ValueError) as error:
            reasons.append(f"{name}: {error}")
            continue
        return name, "; ".join([f"{file} was exported from these weights", *reasons])
    return "torch", "; ".join(reasons)


def _openvino_engine(models: Path, precision: str) -> OpenVinoEngine:
    if precision == "auto":
        precision, reason = _pick_precision(models)
        logger.info("OpenVINO precision: %s (%s).", precision, reason)
    elif precision == "bf16":
        _require("openvino", "openvino")
        if not openvino_has_bfloat16():
            raise ValueError(
                f"Expected a CPU that computes in bf16 for --precision bf16, found {cpu_name()}, on which OpenVINO "
                "computes in fp32; give --precision auto or fp32."
            )
    return OpenVinoEngine(
        exported_file(models, OPENVINO_INT8_FILE if precision == "int8" else OPENVINO_FILE), precision
    )


def openvino_has_bfloat16() -> bool:
    """Returns whether OpenVINO runs bf16 on this CPU in hardware; some releases emulate it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and cpu_computes_bfloat16()


def _pick_precision(models: Path) -> tuple[str, str]:
    """Returns the fastest precision that the CPU supports and the export accepted, and the reason."""
    _require("openvino", "openvino")
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    exported_file(models, OPENVINO_FILE)
    if openvino_has_bfloat16() and is_accepted(models, "openvino", "bf16"):
        return "bf16", "the CPU computes in it and the export's check accepted it"
    if "INT8" in capabilities and is_accepted(models, "openvino", "int8"):
        return "int8", "the CPU computes in it and the export's check accepted it"
    return "fp32", f"no faster one is both accepted by the export's check and among the CPU's {capabilities}"


def _as_array(windows: Tensor) -> np.ndarray:
    return np.ascontiguousarray(torch.as_tensor(windows).detach().cpu().numpy(), dtype=np.float32)


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ImportError(
            f"The engine needs {package}, which is not installed: pip install {package} (it comes with the extra "
            f"`{extra}` of tskd-monai), or give --engine torch."
        )
