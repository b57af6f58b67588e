"""Which tensors travel, how they are averaged, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tskd_monai.federated.weights import (
    as_transported,
    check_alike,
    load_arrays,
    num_bytes,
    shapes_of,
    to_arrays,
    trained_tensors,
    weighted_average,
)
from tskd_monai.networks.teacher_builder import build_teacher


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 2, 1))


def test_statistics_of_batch_norm_travel_with_its_weights_and_counters_do_not() -> None:
    names = set(trained_tensors(network()))
    assert {"1.weight", "1.running_mean", "1.running_var", "2.weight"} <= names
    assert not any("num_batches" in name or name.startswith("2.running") for name in names)


def test_a_frozen_encoder_stays_and_adapter_and_decoder_travel() -> None:
    teacher = build_teacher(
        encoder="sam_demo", encoder_weights="shipped", image_size=(64, 64), num_classes=3, tuning="lora", rank=2
    )
    names = set(trained_tensors(teacher))
    encoder = {name for name in names if name.startswith("encoder.")}
    assert encoder and all("lora_" in name for name in encoder)
    assert any(name.startswith("decoder.") for name in names)
    frozen = {name for name, value in teacher.named_parameters() if not value.requires_grad}
    assert frozen and not frozen & names


def test_weights_survive_the_way() -> None:
    source, target = network(), network()
    with torch.no_grad():
        for value in source.parameters():
            value.add_(torch.randn_like(value))
    load_arrays(trained_tensors(target), to_arrays(trained_tensors(source)))
    for name, value in trained_tensors(source).items():
        assert torch.equal(value, trained_tensors(target)[name])


def test_half_the_bytes_in_float16_and_a_relative_error_of_a_two_thousandth() -> None:
    arrays = to_arrays(trained_tensors(network()))
    half = as_transported(arrays, "float16")
    assert num_bytes(half) * 2 == num_bytes(arrays)
    for name, value in arrays.items():
        np.testing.assert_allclose(half[name], value, rtol=2**-11, atol=1e-7)


def test_the_average_is_weighted_and_exact() -> None:
    sites = [{"w": np.full((2, 2), value, np.float32)} for value in (1.0, 2.0, 4.0)]
    mean = weighted_average(sites, [1, 1, 2])
    assert mean["w"].dtype == np.float32
    np.testing.assert_array_equal(mean["w"], np.full((2, 2), 2.75))


def test_equal_sites_average_to_themselves() -> None:
    arrays = to_arrays(trained_tensors(network()))
    mean = weighted_average([arrays] * 3, [3, 5, 7])
    for name, value in arrays.items():
        np.testing.assert_allclose(mean[name], value, rtol=1e-7)


@pytest.mark.parametrize("weights", [[1, 0], [1, -2]])
def test_a_site_without_weight_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="positive weights"):
        weighted_average([{"w": np.zeros(1)}] * 2, weights)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"w": None}, "found w of shape absent"),
        ({"w": np.zeros(3, np.float32)}, r"found w of shape \(3,\)"),
        ({"patient": np.zeros(1, np.float32)}, "patient"),
        ({"w": np.array([np.nan, 0], np.float32)}, "finite"),
        ({"w": np.array(["Jane", "Doe"])}, "finite float32 or float16"),
    ],
)
def test_other_tensors_are_refused(change: dict[str, np.ndarray | None], expected: str) -> None:
    arrays = {"w": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}
    changed = {name: value for name, value in {**arrays, **change}.items() if value is not None}
    check_alike(arrays, shapes_of(arrays), "the network")
    with pytest.raises((ValueError, TypeError), match=expected):
        check_alike(changed, shapes_of(arrays), "the network")


def test_what_exceeds_float16_is_not_sent() -> None:
    with pytest.raises(ValueError, match="Expected finite numbers in w as float16"):
        as_transported({"w": np.array([1e6], np.float32)}, "float16")
