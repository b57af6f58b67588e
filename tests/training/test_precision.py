from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer

from tskd_monai.networks import bfloat16
from tskd_monai.training.precision import PrecisionInferer, choose_precision

pytestmark = pytest.mark.usefixtures("bfloat16_anywhere")


class Recorder(torch.nn.Module):
    """Two layers that record the type of the activations between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Conv2d(8, 2, 1)
        self.dtypes: list[torch.dtype] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images)
        self.dtypes.append(hidden.dtype)
        return self.second(torch.relu(hidden))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_bfloat16_is_real_inside_and_float32_outside(images: torch.Tensor) -> None:
    network = Recorder()
    exact, rough = (PrecisionInferer(precision)(images, network) for precision in ("float32", "bfloat16"))
    assert network.dtypes == [torch.float32, torch.bfloat16]
    assert exact.dtype == rough.dtype == torch.float32
    assert rough.shape == (2, 2, 8, 8)
    assert torch.equal(exact, network(images))
    assert 0 < (rough - exact).abs().max() < 0.02 * exact.abs().max()


def test_outputs_by_name_are_float32_too(images: torch.Tensor) -> None:
    network = Recorder()

    def by_name(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": network(images), "features": network.first(images)}

    exact, rough = (PrecisionInferer(precision)(images, by_name) for precision in ("float32", "bfloat16"))
    assert network.dtypes == [torch.float32, torch.bfloat16]
    assert {name: value.dtype for name, value in rough.items()} == dict.fromkeys(exact, torch.float32)
    assert rough["features"].shape == (2, 8, 8, 8)
    for name in ("logits", "features"):
        assert 0 < (rough[name] - exact[name]).abs().max() < 0.02 * exact[name].abs().max()


def trained(precision: str, images: torch.Tensor) -> tuple[Recorder, float]:
    """Returns the network after a stock training run of four steps, and its last loss."""
    network = Recorder()
    batches = [{"image": images, "label": (images > 0.5).long()[:, 0]}] * 4
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.5),
        loss_function=torch.nn.CrossEntropyLoss(),
        inferer=PrecisionInferer(precision),
        decollate=False,
    )
    trainer.run()
    return network, float(trainer.state.output["loss"].detach())


def test_the_stock_trainer_trains_in_it(images: torch.Tensor) -> None:
    (exact, exact_loss), (rough, rough_loss) = (trained(precision, images) for precision in ("float32", "bfloat16"))
    assert set(rough.dtypes) == {torch.bfloat16}
    assert {value.dtype for value in rough.parameters()} == {torch.float32}
    assert {value.grad.dtype for value in rough.parameters() if value.grad is not None} == {torch.float32}
    assert rough_loss != exact_loss
    assert rough_loss == pytest.approx(exact_loss, rel=0.02)
    assert not torch.equal(rough.first.weight, exact.first.weight)
    torch.testing.assert_close(rough.first.weight, exact.first.weight, rtol=0, atol=0.02)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected --precision float32, bfloat16 or auto, found float16"):
        PrecisionInferer("float16")


def test_a_gpu_without_bfloat16_is_refused_but_not_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    PrecisionInferer("float32", "cuda:0")
    with pytest.raises(ValueError, match=r"or a GPU .*found Tesla T4, .* Train with --precision float32 or auto"):
        PrecisionInferer("bfloat16", "cuda:0")
    with pytest.raises(ValueError, match="found mps"):
        PrecisionInferer("bfloat16", "mps")


def test_a_cpu_without_bfloat16_is_refused_and_auto_takes_float32(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bfloat16, "cpu_capabilities", lambda: {"avx2": True, "cpu_name": "Old Xeon"})
    with pytest.raises(ValueError, match=r"AVX-512 BF16, AMX, Arm BF16\), .*found Old Xeon, where it is many times"):
        PrecisionInferer("bfloat16")
    with caplog.at_level("INFO"):
        assert PrecisionInferer("auto").precision == "float32"
    assert "Precision: float32 (Old Xeon)." in caplog.text
    assert choose_precision("float32") == "float32"


def test_auto_takes_bfloat16_where_there_is_one(caplog: pytest.LogCaptureFixture, images: torch.Tensor) -> None:
    network = Recorder()
    with caplog.at_level("INFO"):
        inferer = PrecisionInferer("auto")
    inferer(images, network)
    assert inferer.precision == "bfloat16" and network.dtypes == [torch.bfloat16]
    assert "Precision: bfloat16 (the cpu computes in it)." in caplog.text


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_tensor_of_a_mapping_is_float32(precision: str) -> None:
    network = torch.nn.Linear(4, 2)
    outputs = PrecisionInferer(precision)(torch.rand(3, 4), lambda images: {"logits": network(images), "one": images})
    assert {name: value.dtype for name, value in outputs.items()} == {"logits": torch.float32, "one": torch.float32}
