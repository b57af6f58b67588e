"""A frozen beginning that is computed once: augmented views of each slice, stored with the encoder's state.

With LoRA in the last layers only, the layers before them map an image to the same activations in every step. So a fixed
number of augmented views of each labelled slice is drawn once, and the frozen layers run once for each of them; a step
draws among the stored views and runs only the remaining layers and the decoder.

One safetensors file holds the views of one slice, in float32. Its name has a hash of the views, the encoder's weights
and the number of frozen layers: after a change of the dataset, the augmentation, the seed or the encoder it is computed
again, and an interrupted run computes only what is missing. The files hold images of patients, so they lie in
`private/`, and `finish_teacher` removes them.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from monai.engines import PrepareBatch, default_prepare_batch
from monai.transforms import Randomizable
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from tskd_monai.data.slices import SliceDataset
from tskd_monai.files.private_files import FOLDER, private_file
from tskd_monai.networks.encoders import EncoderState
from tskd_monai.networks.lora import base_encoder_sha256
from tskd_monai.networks.teacher import VfmSegmenter
from tskd_monai.networks.weights_file import write_weights

logger = logging.getLogger(__name__)

VIEWS_FOLDER = "frozen_views"
FORMAT_VERSION = 1
KEYS = ("image", "label")
HIDDEN, FEATURE = "hidden", "feature_"
MAX_VIEWS = 1000
GB = 1e9


class FrozenViews(Dataset[dict[str, Any]], Randomizable):
    """Stored views: an item is a random view of a slice, `image`, `label`, and the encoder's state for it.

    Args:
        paths: file of each slice.
        views: number of views in a file.
    """

    def __init__(self, paths: Iterable[Path], views: int) -> None:
        self.paths, self.views = list(paths), views
        self.view = 0

    def randomize(self, data: Any = None) -> None:
        """Draws the number of a view."""
        self.view = int(self.R.randint(self.views))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.randomize()
        with safe_open(self.paths[index], "pt") as file:
            return {name: file.get_slice(name)[self.view : self.view + 1][0] for name in file.offset_keys()}


class PrepareFrozenViews(PrepareBatch):
    """Moves images and labels to the device and, for stored views, passes the encoder's state to the network."""

    def __call__(
        self,
        batchdata: dict[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Returns `(images, labels)`, and with a state also positional and keyword arguments of the network."""
        prepared = default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        if HIDDEN not in batchdata:
            return prepared
        names = [HIDDEN, *(f"{FEATURE}{index}" for index in range(sum(FEATURE in name for name in batchdata)))]
        hidden, *features = (batchdata[name].to(device=device, non_blocking=non_blocking) for name in names)
        return (*prepared, (), {"state": EncoderState(hidden, tuple(features))})


def training_views(
    dataset: SliceDataset,
    views: int | None,
    network: VfmSegmenter,
    output_dir: str | Path,
    seed: int = 0,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> SliceDataset | FrozenViews:
    """Returns the dataset to train on: the slices, or their stored views, computed where they are missing.

    Each of several processes computes its own part.

    Args:
        dataset: slices with a random slice transform.
        views: number of views of each slice; None: the dataset is returned as it is, and every step augments.
        network: teacher, whose frozen layers are run.
        output_dir: folder of the teacher; the views are stored in its `private/frozen_views`.
        seed: seed of the views.
        batch_size: views in one forward pass.
        device: device of the network.

    Raises:
        ValueError: when `views` is no number from 1 to 1000, the encoder is trained from its first weights on,
            or the disk has too little room.
    """
    if views is None:
        return dataset
    _check_views(views, network.to(device), dataset.arrays("image")[0][None].to(device))
    store = _ViewStore(dataset, views, network, private_file(output_dir, VIEWS_FOLDER), seed, batch_size)
    store.complete(range(idist.get_rank(), len(dataset), idist.get_world_size()))
    idist.barrier()
    return FrozenViews(sorted(store.folder.glob("*.safetensors"))[: len(dataset)], views)


def _check_views(views: int, network: VfmSegmenter, image: Tensor) -> None:
    """Raises ValueError unless views are a number, and the encoder begins with layers that training does not change.

    Args:
        views: number of views of each slice.
        network: teacher on the device of the image.
        image: (1, C, H, W).
    """
    if type(views) is not int or not 1 <= views <= MAX_VIEWS:
        raise ValueError(f"Expected --frozen_views from 1 to {MAX_VIEWS}, found {views!r}.")
    count = network.frozen_layers
    if count == 0 or _depends_on_training(network, image):
        raise ValueError(
            "Expected frozen layers at the beginning of the encoder for --frozen_views, found that training changes "
            "the first one; adapt only the last layers, as with --lora_depth 2, or leave --frozen_views out."
        )
    logger.info("Frozen beginning: %d of the encoder's %d layers.", count, len(network.encoder.layers))


def _depends_on_training(network: VfmSegmenter, image: Tensor) -> bool:
    """Returns whether a trainable weight, such as one of the embedding, affects the output of the frozen layers."""
    with torch.enable_grad():
        network.train(network.training)  # frozen statistics in evaluation mode
        state = network.encoder.begin(image, network.frozen_layers)
    return any(tensor.requires_grad for tensor in _tensors(state).values())


def _tensors(state: EncoderState) -> dict[str, Tensor]:
    return {HIDDEN: state.hidden, **{f"{FEATURE}{index}": value for index, value in enumerate(state.features)}}


class _ViewStore:
    """The folder of the views, one file for each slice; arguments as in `training_views`."""

    def __init__(
        self, dataset: SliceDataset, views: int, network: VfmSegmenter, folder: Path, seed: int, batch_size: int
    ) -> None:
        self.dataset, self.views, self.network, self.folder = dataset, views, network, folder
        self.seed, self.batch_size = seed, batch_size
        self.prefix = f"{FORMAT_VERSION} {base_encoder_sha256(network.encoder)} {network.frozen_layers}"

    def complete(self, indices: Sequence[int]) -> None:
        """Writes the files of these slices that are missing, and removes other files of the same slices."""
        self.folder.mkdir(parents=True, exist_ok=True)
        estimated = False
        for done, index in enumerate(tqdm(indices, desc="Frozen layers", unit="slice")):
            started = time.monotonic()
            drawn = self._draw(index)
            path = self._path(index, drawn)
            if not path.is_file():
                content = {**drawn, **self._run(drawn["image"])}
                if not estimated:
                    self._foretell(content, len(indices) - done, time.monotonic() - started)
                    estimated = True
                write_weights(path, content)
            for other in self.folder.glob(f"{index:06d}-*"):
                if other != path:
                    other.unlink()

    def _draw(self, index: int) -> dict[str, Tensor]:
        """Returns the views of a slice, image (N, C, H, W) and label (N, 1, H, W), the same in every call."""
        items = []
        for view in range(self.views):
            self.dataset.set_random_state(int(np.random.SeedSequence([self.seed, index, view]).generate_state(1)[0]))
            items.append(self.dataset[index])
        return {key: torch.stack([torch.as_tensor(np.asarray(item[key])) for item in items]) for key in KEYS}

    def _path(self, index: int, drawn: Mapping[str, Tensor]) -> Path:
        digest = hashlib.sha256(self.prefix.encode())
        for key in KEYS:
            digest.update(f" {drawn[key].dtype} {tuple(drawn[key].shape)}".encode())
            digest.update(drawn[key].contiguous().numpy().tobytes())
        return self.folder / f"{index:06d}-{digest.hexdigest()[:32]}.safetensors"

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the encoder's state for images (N, C, H, W), with a first axis of N."""
        device = next(self.network.parameters()).device
        parts = [_tensors(self.network.begin(batch.to(device))) for batch in images.split(self.batch_size)]
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}

    def _foretell(self, content: Mapping[str, Tensor], remaining: int, seconds: float) -> None:
        """Logs size and time of the remaining files of all processes, after checking the disk.

        Raises:
            ValueError: when it has too little room.
        """
        processes = idist.get_world_size()
        needed = remaining * processes * sum(value.nbytes for value in content.values())
        free = shutil.disk_usage(self.folder).free
        wanted = f"{needed / GB:.2f} GB for {self.views} views of {remaining * processes} slices"
        if needed > free:
            raise ValueError(
                f"Expected {wanted} on the disk of --output_dir, found {free / GB:.2f} GB free; lower --frozen_views "
                "or choose another disk."
            )
        minutes = remaining * seconds / 60
        logger.info("Frozen beginning: %s in %s/, in about %.1f min.", wanted, self.folder.name, minutes)


class ViewCost(NamedTuple):
    """Cost of stored views: bytes on disk, and seconds that the frozen layers need."""

    bytes: int
    seconds: float

    def times(self, number: int) -> ViewCost:
        """Returns the cost of this many such views."""
        return ViewCost(number * self.bytes, number * self.seconds)


class ViewTrial:
    """Measures what the stored views of one slice cost.

    Args:
        views: number of views of each slice.
        network: teacher on the device.
        device: device of the network.
    """

    def __init__(self, views: int, network: VfmSegmenter, device: torch.device | str) -> None:
        self.views, self.network, self.device = views, network, device

    def __call__(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], ViewCost]:
        """Returns the batch with the encoder's state, as `FrozenViews` gives it, and the cost of one slice.

        Args:
            batch: batch with `image` (B, C, H, W) and `label`.

        Raises:
            ValueError: see `training_views`.
        """
        images = torch.as_tensor(batch["image"]).to(self.device)
        _check_views(self.views, self.network, images[:1])
        started = time.monotonic()
        content = {**{key: batch[key] for key in KEYS}, **_tensors(self.network.begin(images))}
        seconds = (time.monotonic() - started) / len(images)
        view = ViewCost(sum(value[0].nbytes for value in content.values()), seconds)
        return {**batch, **content}, view.times(self.views)


def view_trial(views: int | None, network: VfmSegmenter, device: torch.device | str) -> ViewTrial | None:
    """Returns the measurement for a dry run; None if no views are stored."""
    return None if views is None else ViewTrial(views, network, device)


def remove_views(output_dir: str | Path) -> None:
    """Removes the stored views of a teacher folder, if there are any."""
    folder = Path(output_dir) / FOLDER / VIEWS_FOLDER
    if folder.is_dir():
        shutil.rmtree(folder)
