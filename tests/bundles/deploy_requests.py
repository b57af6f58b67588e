"""What MONAI Deploy's bundle operator does with a student's TorchScript and the configs inside it, without Deploy.

The operator reads `metadata` and `inference` in the archive, drops every transform with `LoadImage` or `SaveImage` in
its name, passes an image (W, H, D) with its affine to `preprocessing`, calls `inferer` on the network, then
`postprocessing`, and passes one channel on as uint8. `configs/task.json` is read relative to `bundle_root`, so an
application starts in the bundle's folder.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ckpt_export
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from monai.utils import ensure_tuple

DROPPED = ("LoadImage", "SaveImage")
SCRIPTED = Path("models") / "model.ts"


def export(bundle: Path) -> None:
    """Writes the TorchScript of a bundle, its configs inside."""
    ckpt_export(
        net_id="network_def",
        filepath=str(bundle / SCRIPTED),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        key_in_ckpt="",
        bundle_root=str(bundle),
    )


def open_archive(bundle: Path) -> ConfigParser:
    """Returns the configs in the TorchScript; the working directory must be the bundle."""
    with zipfile.ZipFile(bundle / SCRIPTED) as archive:
        contents = {name: json.loads(archive.read(f"model/extra/{name}.json")) for name in ("metadata", "inference")}
    parser = ConfigParser(contents["inference"])
    parser.read_meta(contents["metadata"])
    parser["device"] = "cpu"
    parser.parse()
    return parser


def filtered(compose: Compose) -> Compose:
    """Returns a composition without the transforms that read and write files."""
    compose.transforms = tuple(t for t in compose.transforms if not any(name in type(t).__name__ for name in DROPPED))
    return compose


def infer(parser: ConfigParser, bundle: Path, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Segments a volume (W, H, D) as the operator does; returns its output before the axes are permuted."""
    pre, post = (filtered(parser.get_parsed_content(name)) for name in ("preprocessing", "postprocessing"))
    network = torch.jit.load(str(bundle / SCRIPTED), map_location="cpu").eval()
    meta = {"affine": affine.copy(), "original_affine": affine, "space": "LPS", "original_channel_dim": "no_channel"}
    meta |= {"spatial_shape": np.asarray(voxels.shape)}
    inputs: dict[str, Any] = pre({"image": MetaTensor.ensure_torch_and_prune_meta(torch.from_numpy(voxels), meta)})
    with torch.no_grad():
        output = ensure_tuple(parser.get_parsed_content("inferer")(inputs=inputs["image"][None], network=network))[0]
    assert all(isinstance(step, MapTransform) for step in post.transforms)  # or the operator would pass a bare tensor
    sent: MetaTensor = post({"pred": output, **inputs})["pred"]
    assert sent.dtype is torch.uint8
    return np.squeeze(sent.numpy(), 0)
