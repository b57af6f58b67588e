"""Properties of every encoder, and running layers with and without recomputation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tskd_monai.networks.encoders import (
    InputNormalisation,
    evenly_spaced_depths,
    image_size_hw,
    interpolate_positions,
    run_layers,
)
from tskd_monai.networks.lora import add_lora


def test_output_shapes_at_a_rectangular_size(encoder):
    encoder.resize_to((48, 80))
    output = encoder(torch.rand(2, 1, 48, 80))
    embed, *strides = encoder.embed_stride, *encoder.feature_strides
    assert output.image_embeddings.shape == (2, encoder.embed_dim, 48 // embed, 80 // embed)
    expected = zip(encoder.feature_channels, strides, strict=True)
    assert [tuple(entry.shape) for entry in output.features] == [(2, c, 48 // s, 80 // s) for c, s in expected]
    assert len(output.features) == 4


def test_grey_equals_the_same_grey_in_three_channels(encoder):
    images = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(encoder(images).image_embeddings, encoder(images.repeat(1, 3, 1, 1)).image_embeddings)


def test_resizing_to_the_native_size_changes_no_bit(encoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.resize_to(64)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resizing_keeps_a_constant_position_and_everything_else(encoder):
    for name, value in encoder.state_dict().items():
        if "pos_embed" in name:
            value.fill_(0.25)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.resize_to((96, 128))
    for name, value in encoder.state_dict().items():
        if "pos_embed" in name:
            torch.testing.assert_close(value, torch.full_like(value, 0.25))
        elif "rel_pos" not in name:
            assert torch.equal(value, before[name]), name


def test_images_in_a_batch_do_not_mix(encoder):
    images = torch.rand(2, 1, 64, 64)
    alone = encoder(images[1:]).image_embeddings
    torch.testing.assert_close(encoder(images).image_embeddings[1:], alone, atol=1e-5, rtol=1e-4)


def test_images_of_another_size_are_refused(encoder):
    with pytest.raises(ValueError, match=r"Expected images of 64x64 pixels, found 32x64"):
        encoder(torch.rand(1, 1, 32, 64))


def test_two_channels_are_refused(encoder):
    with pytest.raises(ValueError, match=r"\(B, 1 or 3, H, W\), found \(1, 2, 64, 64\)"):
        encoder(torch.rand(1, 2, 64, 64))


@pytest.mark.parametrize("size", [(16, 32), (128, 112), (16, 1024)])
def test_any_multiple_of_16_is_accepted(encoder, size):
    encoder.resize_to(size)
    with torch.no_grad():
        embeddings = encoder(torch.rand(1, 1, *size)).image_embeddings
    assert embeddings.shape[-2:] == tuple(side // encoder.embed_stride for side in size)
    assert torch.isfinite(embeddings).all()


@pytest.mark.parametrize("size", [100, (64, 65), (0, 16), (16, 16, 16), (128, 1040), -16])
def test_image_sizes_that_no_grid_fits_are_refused(encoder, size):
    with pytest.raises(ValueError, match=r"multiples of 16 up to 1024, found .*choose the task's image_size"):
        image_size_hw(size)
    with pytest.raises(ValueError, match="multiples of 16 up to 1024"):
        encoder.resize_to(size)


def test_positions_that_rise_along_one_axis_still_do_after_interpolation():
    rows = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 6, 2)
    resized = interpolate_positions(rows, (8, 3), antialias=False)
    assert resized.shape == (1, 8, 3, 2)
    assert (resized.diff(dim=1) > 0).all()
    assert resized.diff(dim=2).abs().max() < 1e-6


def test_normalisation_subtracts_the_mean_and_divides_by_the_std():
    normalise = InputNormalisation((0.1, 0.2, 0.3), (0.5, 0.25, 1.0))
    values = normalise(torch.full((1, 1, 2, 2), 0.6))[0, :, 0, 0]
    torch.testing.assert_close(values, torch.tensor([1.0, 1.6, 0.3]))


@pytest.mark.parametrize(("depth", "expected"), [(12, (2, 5, 8, 11)), (6, (0, 2, 3, 5)), (2, (0, 1)), (1, (0,))])
def test_depths_are_even_and_end_with_the_last_layer(depth, expected):
    assert evenly_spaced_depths(depth) == expected


def layer_runs(encoder, images: torch.Tensor) -> tuple[int, dict[str, torch.Tensor]]:
    """Returns how often the last layer ran in a forward and a backward pass, and the gradients."""
    runs = []
    # A hook before the MLP: the recomputation stops as soon as it has all it needs, and never leaves the layer.
    hook = encoder.layers[-1].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    encoder.zero_grad()
    torch.manual_seed(0)
    encoder(images).image_embeddings.square().mean().backward()
    hook.remove()
    gradients = {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}
    return len(runs), gradients


@pytest.mark.parametrize("lora", [False, True])
def test_checkpointing_runs_layers_twice_and_changes_no_gradient(encoder, lora):
    if lora:
        add_lora(encoder, rank=2, dropout=0.2)
        for name, value in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.02)
    encoder.train()
    images = torch.rand(2, 1, 64, 64)
    once, expected = layer_runs(encoder, images)
    encoder.checkpoint_gradients(True)
    twice, found = layer_runs(encoder, images)
    assert (once, twice) == (1, 2)
    assert expected.keys() == found.keys()
    assert all("lora_" in name for name in found) == lora
    assert all(value.abs().max() > 0 for name, value in expected.items() if "lora_" in name)
    torch.testing.assert_close(found, expected)


def test_checkpointing_has_no_effect_in_evaluation(encoder):
    encoder.checkpoint_gradients(True)
    runs, _ = layer_runs(encoder.eval(), torch.rand(1, 1, 64, 64))
    assert runs == 1


@pytest.mark.parametrize("recompute", [False, True])
def test_the_requested_depths_and_the_last_output_are_returned(recompute):
    layers = [nn.Linear(3, 3) for _ in range(4)]
    start = torch.rand(2, 3)
    last, kept = run_layers(layers, start, (0, 2), recompute=recompute)
    assert torch.equal(last, nn.Sequential(*layers)(start))
    assert [tuple(entry.shape) for entry in kept] == [(2, 3), (2, 3)]
    assert torch.equal(kept[0], layers[0](start))
    assert torch.equal(kept[1], nn.Sequential(*layers[:3])(start))


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_an_encoder_stopped_between_layers_finishes_as_if_it_had_not_been(encoder, count):
    images = torch.rand(2, 1, 64, 64)
    encoder.eval()
    with torch.no_grad():
        expected = encoder(images)
        found = encoder.finish(encoder.begin(images, min(count, len(encoder.layers))), min(count, len(encoder.layers)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(expected.features) == len(encoder.feature_channels) == len(encoder.feature_strides)
    for entry, stride in zip(
        (*expected.features, expected.image_embeddings), (*encoder.feature_strides, encoder.embed_stride), strict=True
    ):
        assert entry.shape[-2:] == (64 // stride, 64 // stride)


def kept_for_backward(recompute: bool) -> int:
    layers = [nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU()) for _ in range(5)]
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        run_layers(layers, torch.rand(64, 8), (), recompute=recompute)
    return sum(sizes)


def test_recomputing_keeps_less_for_the_backward_pass():
    assert kept_for_backward(recompute=True) < kept_for_backward(recompute=False) / 3


def test_layers_that_change_the_shape_fail_as_they_are():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_layers([nn.Linear(3, 4), nn.Linear(3, 3)], torch.rand(2, 3), (), recompute=False)
