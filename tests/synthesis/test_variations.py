"""Variations of real slices: their start, their sources, their files, and that they are kept out of exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from tests.synthesis.test_sampling import PerfectNetwork
from tests.synthesis.test_transfer_set_writer import contents, stop_after
from tskd_monai.bundle.zoo.bundle import Export, export_bundle
from tskd_monai.bundle.zoo.contents import Trained
from tskd_monai.bundle.zoo.hub import contents_for_hub, push
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.synthesis.diffusion import build_noise_scheduler, build_unet
from tskd_monai.synthesis.sampling import ImageSampler, build_sampler, partly_noised
from tskd_monai.synthesis.transfer_set_writer import write_transfer_set
from tskd_monai.synthesis.variations import SourceSlices

TASK = "a" * 64
SHAPE = (1, 16, 16)
PATIENT = "doe_jane"


def slices(number: int = 6) -> SliceDataset:
    """One volume of random slices between two blank ones."""
    volume = torch.rand(*SHAPE, number + 2, generator=torch.Generator().manual_seed(3))
    volume[..., 0], volume[..., -1] = 0, 0
    return SliceDataset([{"case": PATIENT}], lambda item: {"image": volume}, keys=["image"])


def sampler(unet: torch.nn.Module, scheduler: DDPMScheduler, strength: float = 0.4, **changes: Any) -> ImageSampler:
    options: dict[str, Any] = {"batch_size": 2, "num_inference_steps": 10, "sampler": "ddim", **changes}
    return ImageSampler(unet, scheduler, SHAPE, conditions=SourceSlices(slices(), unet, strength), **options)


def write(folder: Path, unet: UNet2DModel, scheduler: DDPMScheduler, **changes: Any) -> Path:
    return write_transfer_set(folder, sampler(unet, scheduler, **changes), number=5, task_hash=TASK, base_seed=7)


@pytest.mark.parametrize(
    ("prediction_type", "name"),
    [
        ("v_prediction", "ddim"),
        ("sample", "dpmsolver++"),
        ("epsilon", "ddim"),
        ("flow", "euler"),
        ("flow", "dpmsolver++"),
    ],
)
def test_noise_grows_with_the_strength_and_a_perfect_network_removes_it(prediction_type: str, name: str) -> None:
    scheduler = build_noise_scheduler(prediction_type)
    image, noise = torch.full((2, *SHAPE), 0.5), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    deviations = []
    for strength in (0.2, 0.4, 0.8):
        solver = build_sampler(scheduler, name)
        solver.set_timesteps(20)
        noisy, timesteps = partly_noised(solver, image, noise, strength)
        assert 0 < float(timesteps[0]) <= strength * 1000
        deviations.append(float(noisy.std()))
        network = PerfectNetwork(torch.full(SHAPE, 0.75), scheduler)
        for timestep in timesteps:
            noisy = solver.step(network(noisy, timestep, None, False)[0], timestep, noisy, return_dict=False)[0]
        torch.testing.assert_close(noisy, image, atol=2e-2, rtol=0)
    assert deviations == sorted(deviations) and deviations[0] < 0.5 < deviations[2]


def test_more_strength_leads_further_from_the_source(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    sources = slices().arrays("image")[1:-1]
    distances = []
    for strength in (0.1, 0.4, 0.9):
        images = list(sampler(unet, noise_scheduler, strength).sample(range(8)))
        found = [
            item.image - sources[item.condition.record["source_slice"]] for item in images if item.condition.record
        ]
        assert len(found) == 8
        distances.append(float(torch.stack(found).square().mean()))
    assert distances == sorted(distances)


def test_fewer_steps_are_run_than_from_noise(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    timesteps: list[float] = []
    hook = unet.register_forward_pre_hook(lambda module, inputs: timesteps.append(float(inputs[1])))
    list(sampler(unet, noise_scheduler, 0.4).sample([0]))
    hook.remove()
    assert timesteps == [399, 299, 199, 99]


def test_a_seed_gives_the_same_bits_in_any_company(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    together = {item.seed: item.image for item in sampler(unet, noise_scheduler).sample(range(7))}
    for seeds in ([6], [5, 3, 6]):
        for item in sampler(unet, noise_scheduler).sample(seeds):
            assert torch.equal(item.image, together[item.seed])


def test_the_network_is_told_the_position_of_the_source() -> None:
    unet = build_unet((16, 16), 1, (8, 16), patch_size=2, condition="slice_position")
    sources = SourceSlices(slices(), unet)
    drawn = [sources.draw(seed) for seed in range(40)]
    indices = [item.record["source_slice"] for item in drawn if item.record]
    assert set(indices) == set(range(6))
    expected = torch.tensor([(index + 1) / 7 * 1000 for index in indices])
    torch.testing.assert_close(sources.batch(drawn, 2)["class_labels"], expected)


def test_images_are_marked_and_name_no_patient(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler
) -> None:
    path = write(tmp_path / "set", unet, noise_scheduler)
    for entry in load_transfer_set(path, TASK):
        assert entry["origin"] == "variation" and entry["case"].startswith("variation_")
        assert entry["condition"]["strength"] == 0.4 and 0 <= entry["condition"]["source_slice"] < 6
    assert PATIENT not in path.read_text()


@pytest.mark.parametrize("images", [0, 3])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    write(tmp_path / "complete", unet, noise_scheduler)
    with monkeypatch.context() as patch:
        stop_after(patch, images)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "stopped", unet, noise_scheduler)
    with pytest.raises(ValueError, match="condition differ"):
        write(tmp_path / "stopped", unet, noise_scheduler, strength=0.2)
    write(tmp_path / "stopped", unet, noise_scheduler)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "complete")


def test_wrong_settings_are_refused(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    for strength in (0, 1, "0.4", True):
        with pytest.raises(ValueError, match=f"--strength between 0 and 1, found {strength}"):
            SourceSlices(slices(), unet, strength)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at or below --strength 0.05, found none of 10; raise"):
        sampler(unet, noise_scheduler, 0.05)
    labelled = build_unet((16, 16), 1, (8, 16), patch_size=2, condition="label_map", num_classes=2)
    with pytest.raises(ValueError, match="without condition label_map"):
        SourceSlices(slices(), labelled)


@pytest.mark.parametrize("complete", [True, False])
def test_exports_refuse_them(
    tmp_path: Path,
    unet: UNet2DModel,
    noise_scheduler: DDPMScheduler,
    monkeypatch: pytest.MonkeyPatch,
    complete: bool,
) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"weights_license": "cc-by-4.0"}))
    with monkeypatch.context() as patch:
        if not complete:
            stop_after(patch, 2, SystemExit)
        try:
            write(bundle / "eval" / "variations", unet, noise_scheduler)
        except SystemExit:
            assert not complete
    message = f"Expected no images of patients in .*, found variations .* in {bundle}/eval/variations; remove"
    with pytest.raises(ValueError, match=message):
        export_bundle(Export("segmentation", "name", Trained(bundle)), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(ValueError, match=message):
        contents_for_hub(bundle, "owner/name")
    with pytest.raises(ValueError, match=message):
        push(bundle, "owner/name", private=False)


def test_exports_go_on_with_other_transfer_sets(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler
) -> None:
    plain = ImageSampler(unet, noise_scheduler, SHAPE, batch_size=2, num_inference_steps=2)
    write_transfer_set(tmp_path / "set", plain, number=2, task_hash=TASK)
    with pytest.raises(FileNotFoundError, match="Expected the trained weights"):
        export_bundle(Export("segmentation", "name", Trained(tmp_path)), tmp_path / "zoo")
