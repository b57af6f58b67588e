"""Another foundation model, added as the README says: an architecture, an encoder, a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.encoders import (
    EncoderOutput,
    EncoderState,
    ImageEncoder,
    LayeredEncoder,
    image_size_hw,
)
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.teacher_builder import build_teacher

FILE = "toy_published.safetensors"


@dataclass(frozen=True)
class ToyArchitecture:
    """Step 1: the sizes, how an encoder is built from them, and which entries of a published file belong to it."""

    hidden_size: int
    depth: int

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> ToyEncoder:
        return ToyEncoder(self, image_size, mean, std)

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        return {name.removeprefix("toy."): value for name, value in state.items() if not name.startswith("head.")}


class ToyBackbone(nn.Module):
    """The entries of the published file; LoRA is inserted here."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))


class ToyEncoder(LayeredEncoder):
    """Step 2: an encoder that implements `ImageEncoder`; it has no position embeddings, so any size is one line."""

    default_lora_targets = ("blocks.0", "blocks.1", "blocks.2")
    embed_stride = 16

    def __init__(
        self, architecture: ToyArchitecture, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        width = architecture.hidden_size
        self.image_size, self.embed_dim = image_size_hw(image_size), width
        self.feature_depths = tuple(range(architecture.depth))
        self.feature_channels = (width,) * architecture.depth
        self.feature_strides = (16,) * architecture.depth
        self.backbone = ToyBackbone(width, architecture.depth)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.backbone.blocks

    def _embed(self, pixels: Tensor) -> Tensor:
        return self.backbone.patches(pixels).permute(0, 2, 3, 1)

    def _output(self, state: EncoderState) -> EncoderOutput:
        return EncoderOutput(
            state.hidden.permute(0, 3, 1, 2), tuple(entry.permute(0, 3, 1, 2) for entry in state.features)
        )

    def resize_to(self, image_size: int | Sequence[int]) -> None:
        self.image_size = image_size_hw(image_size)

    def initialise_randomly(self) -> None:
        pass


@pytest.fixture
def toy(monkeypatch) -> EncoderRecord:
    """Step 3: a record."""
    record = EncoderRecord(
        name="toy",
        architecture=ToyArchitecture(16, 3),
        image_size=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        licence="Apache-2.0",
        source="owner/toy",
        files={FILE: None},
    )
    monkeypatch.setitem(ENCODERS, record.name, record)
    return record


def test_it_has_everything_the_interface_requires(toy):
    encoder: ImageEncoder = build_encoder("toy", "random", (32, 48))
    assert encoder(torch.rand(2, 1, 32, 48)).image_embeddings.shape == (2, encoder.embed_dim, 2, 3)
    asked = [name for name in (*ImageEncoder.__annotations__, *vars(ImageEncoder)) if not name.startswith("_")]
    assert len(asked) == 23
    assert [name for name in asked if not hasattr(encoder, name)] == []


def test_its_weights_load_strictly(toy, tmp_path):
    state = {f"toy.{name}": value for name, value in build_encoder("toy", "random", 64).backbone.state_dict().items()}
    save_file(state | {"head.weight": torch.zeros(1)}, tmp_path / FILE)
    loaded = build_encoder("toy", tmp_path / FILE, 64).backbone.state_dict()
    assert all(torch.equal(loaded[name], state[f"toy.{name}"]) for name in loaded)
    with pytest.raises(ValueError, match=r"published file of toy; choose encoder toy"):
        build_encoder("sam_demo", tmp_path / FILE, 64)
    save_file(state | {"extra": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="unexpected extra"):
        build_encoder("toy", tmp_path / "other.safetensors", 64)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_makes_a_teacher_whose_lora_trains(toy, checkpointing):
    teacher = build_teacher(
        encoder="toy", encoder_weights="random", image_size=64, num_classes=3, decoder="light", rank=2
    )
    teacher.encoder.checkpoint_gradients(checkpointing)
    teacher.train()(torch.rand(2, 1, 64, 64)).square().mean().backward()
    trained = {name for name, value in teacher.encoder.named_parameters() if value.grad is not None}
    assert len(trained) == 6
    assert all("lora_" in name for name in trained)
