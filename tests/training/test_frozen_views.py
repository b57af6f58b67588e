"""Stored views of a frozen beginning: training on them gives the weights that training on the same images gives."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.utils import CommonKeys
from safetensors.torch import load_file
from torch import Tensor, nn

from tskd_monai.data.slices import SliceDataset
from tskd_monai.networks.encoders import EncoderState
from tskd_monai.networks.teacher import VfmSegmenter
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.training.frozen_views import FrozenViews, PrepareFrozenViews, ViewTrial, remove_views, training_views
from tskd_monai.transforms.pipelines import augmentation

SIZE, VIEWS = 32, 3


def volume(entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """A bright square on noise as image and label, (1, 32, 32, 2)."""
    generator = torch.Generator().manual_seed(entry["seed"])
    label = torch.zeros(1, SIZE, SIZE, 2, dtype=torch.uint8)
    label[:, 8:24, 4 + entry["seed"] : 20] = 1
    return {"image": 0.5 * torch.rand(label.shape, generator=generator) + 0.4 * label, "label": label}


def slices(cases: int = 2, strength: float = 1.0, first: int = 0) -> SliceDataset:
    entries = [{"case": str(seed), "seed": seed} for seed in range(first, first + cases)]
    return SliceDataset(entries, volume, augmentation(strength=strength))


def teacher(encoder: str = "sam_demo", **options: Any) -> VfmSegmenter:
    options = {"lora_depth": 2, "seed": 4, "rank": 2, **options}
    return build_teacher(encoder=encoder, encoder_weights="random", image_size=SIZE, num_classes=2, **options)


def stored(
    tmp_path: Path, dataset: SliceDataset | None = None, network: VfmSegmenter | None = None, **options: Any
) -> Any:
    dataset = slices() if dataset is None else dataset
    return training_views(dataset, network=network or teacher(), output_dir=tmp_path, **{"views": VIEWS, **options})


def files(tmp_path: Path) -> dict[str, int]:
    """Returns name and time of change of each file of views."""
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "private" / "frozen_views").iterdir()}


def without_state(batch: dict[str, Tensor], device: Any, non_blocking: bool, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Returns image and label: the network runs from the first layer on."""
    return batch[CommonKeys.IMAGE], batch[CommonKeys.LABEL]


def trained(network: VfmSegmenter, dataset: Any, prepare: Callable[..., Any]) -> dict[str, Tensor]:
    """Returns the trainable weights after ten steps of MONAI's trainer, on the same draws for the same dataset."""
    torch.manual_seed(0)
    loader = DataLoader(dataset, batch_size=4, sampler=[0, 3, 1, 2] * 10)
    weights = [value for value in network.parameters() if value.requires_grad]
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.AdamW(weights, lr=1e-3),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        prepare_batch=prepare,
    ).run()
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


def distance(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Returns the Euclidean distance; AdamW turns a rounding error of one gradient into a step of one weight."""
    assert weights.keys() == others.keys()
    return float(sum((value - others[name]).square().sum() for name, value in weights.items()) ** 0.5)


KINDS = [
    pytest.param({}, id="sam"),
    pytest.param({"decoder": "sam"}, id="sam decoder", marks=pytest.mark.slow),
    pytest.param({"encoder": "vit_tiny_patch16", "lora_depth": 3}, id="plain vit"),
    # Its layers differ in shape; the last stage has two.
    pytest.param({"encoder": "lite_medsam"}, id="tiny vit", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", KINDS)
def test_ten_steps_give_the_same_weights_with_and_without(tmp_path, options):
    views = stored(tmp_path, network=teacher(**options))
    fast = trained(teacher(**options), views, PrepareFrozenViews())
    slow = trained(teacher(**options), views, without_state)
    initial = {name: value.detach() for name, value in teacher(**options).named_parameters() if value.requires_grad}
    assert distance(fast, slow) < 1e-4 * distance(fast, initial)  # 2e-3 if the states were stored in float16


def test_batch_normalisation_and_dropout_of_the_frozen_layers_do_not_depend_on_the_batch(tmp_path):
    def network() -> VfmSegmenter:
        built = teacher()
        for layer in built.encoder.layers[:4]:
            layer.mlp = nn.Sequential(layer.mlp, Statistics(), nn.Dropout(0.5)).requires_grad_(False)
        return built

    views = stored(tmp_path, network=network())
    fast = trained(network(), views, PrepareFrozenViews())
    slow = trained(network(), views, without_state)
    assert distance(fast, slow) < 1e-4 * distance(fast, trained(network(), slices(), PrepareFrozenViews()))


class Statistics(nn.BatchNorm2d):
    """Batch normalisation of (B, h, w, C)."""

    def __init__(self) -> None:
        super().__init__(128)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def test_without_views_nothing_changes(tmp_path):
    dataset = slices()
    assert training_views(dataset, None, teacher(), tmp_path) is dataset
    assert not list(tmp_path.iterdir())
    batch = {"image": torch.rand(2, 1, 4, 4), "label": torch.zeros(2, 1, 4, 4)}
    prepared = PrepareFrozenViews()(batch)
    assert [torch.equal(found, batch[key]) for found, key in zip(prepared, batch, strict=True)] == [True, True]


def test_an_item_is_one_of_the_views_with_its_own_state(tmp_path):
    network = teacher()
    views = stored(tmp_path, network=network)
    content = [load_file(path) for path in views.paths]
    assert len(views) == len(slices()) == 4
    views.set_random_state(1)
    drawn = set()
    for _ in range(20):
        item = views[2]
        found = [view for view in range(VIEWS) if torch.equal(item["image"], content[2]["image"][view])]
        assert len(found) == 1
        assert all(torch.equal(item[name], content[2][name][found[0]]) for name in item)
        state = network.begin(item["image"][None])
        torch.testing.assert_close(item["hidden"], state.hidden[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(item["feature_1"], state.features[1][0], atol=1e-5, rtol=1e-5)
        drawn.add(found[0])
    assert drawn == set(range(VIEWS))


def test_the_batch_reaches_the_network_as_its_own_type(tmp_path):
    views = stored(tmp_path)
    batch = next(iter(DataLoader(views, batch_size=4)))
    images, labels, arguments, named = PrepareFrozenViews()(batch, "cpu")
    assert isinstance(named["state"], EncoderState) and arguments == ()
    assert images.shape == labels.shape == (4, 1, SIZE, SIZE)
    assert labels.dtype == slices()[0]["label"].dtype
    assert [feature.shape[0] for feature in named["state"].features] == [4, 4, 4]


class InterruptedSlices(SliceDataset):
    """Slices of which the third interrupts the run."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_an_interrupted_run_computes_only_what_is_missing(tmp_path):
    dataset = slices()
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, InterruptedSlices(dataset.data, volume, dataset.slice_transform))
    before = files(tmp_path)
    assert len(before) == 2
    views = stored(tmp_path, dataset)
    after = files(tmp_path)
    assert len(after) == 4 and before.items() <= after.items()
    stored(tmp_path, dataset)
    assert files(tmp_path) == after
    everything = [load_file(path) for path in views.paths]
    shutil.rmtree(tmp_path / "private")
    again = [load_file(path) for path in stored(tmp_path).paths]
    for first, second in zip(everything, again, strict=True):
        assert all(torch.equal(value, second[name]) for name, value in first.items())


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "views": {"views": 4},
    "images": {"dataset": slices(first=1)},
    "augmentation": {"dataset": slices(strength=0.5)},
    "weights": {"network": teacher(seed=5)},
    "depth": {"network": teacher(lora_depth=3)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_a_change_the_views_are_computed_again(tmp_path, change):
    stored(tmp_path)
    before = files(tmp_path)
    views = stored(tmp_path, **change)
    assert len(views.paths) == len(files(tmp_path)) == 4
    assert not before.keys() & files(tmp_path).keys()


def test_more_views_than_fit_on_the_disk_are_refused_before_any_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    message = (
        r"Expected 0\.00 GB for 3 views of 4 slices on the disk of --output_dir, found 0\.00 GB free; lower --froz"
    )
    with pytest.raises(ValueError, match=message):
        stored(tmp_path)
    assert files(tmp_path) == {}


def test_size_and_time_are_foretold(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="tskd_monai")
    stored(tmp_path)
    assert "Frozen beginning: 4 of the encoder's 6 layers." in caplog.messages
    assert any("for 3 views of 4 slices in frozen_views/, in about 0." in message for message in caplog.messages)


@pytest.mark.parametrize("options", [{"lora_depth": None}, {"lora_depth": None, "tuning": "full"}])
def test_an_encoder_that_is_trained_from_its_first_layer_on_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="Expected frozen layers at the beginning of the encoder .*--lora_depth 2"):
        stored(tmp_path, network=teacher(**options))


def test_a_trained_embedding_is_refused(tmp_path):
    network = teacher()
    network.encoder.backbone.pos_embed.requires_grad_(True)
    with pytest.raises(ValueError, match="found that training changes the first one"):
        stored(tmp_path, network=network)


@pytest.mark.parametrize("views", [0, -2, 1001, 2.5, True, "8"])
def test_a_wrong_number_of_views_is_refused(tmp_path, views):
    with pytest.raises(ValueError, match=rf"Expected --frozen_views from 1 to 1000, found {views!r}"):
        stored(tmp_path, views=views)


def test_a_frozen_encoder_is_run_once_as_a_whole(tmp_path):
    network = teacher(tuning="decoder", lora_depth=None)
    item = stored(tmp_path, network=network)[0]
    torch.testing.assert_close(item["hidden"], network.begin(item["image"][None]).hidden[0], atol=1e-5, rtol=1e-5)
    assert network.frozen_layers == 6


def test_a_trial_costs_what_the_files_hold(tmp_path):
    network = teacher()
    items = [slices()[index] for index in range(2)]
    batch = {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in ("image", "label")}
    with_state, cost = ViewTrial(VIEWS, network, "cpu")(batch)
    paths = stored(tmp_path, network=network).paths
    assert with_state.keys() == load_file(paths[0]).keys()
    held = sum(value.nbytes for value in load_file(paths[0]).values())
    assert cost.bytes == held
    assert cost.seconds > 0 and cost.times(2).seconds == 2 * cost.seconds


def test_views_are_removed(tmp_path):
    stored(tmp_path)
    remove_views(tmp_path)
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["README.txt"]
    remove_views(tmp_path)


def test_a_dataset_of_views_is_seeded():
    views = FrozenViews([], 8)
    draws = []
    for seed in (1, 1, 2):
        views.set_random_state(seed)
        numbers = []
        for _ in range(10):
            views.randomize()
            numbers.append(views.view)
        draws.append(numbers)
    assert draws[0] == draws[1] != draws[2]
