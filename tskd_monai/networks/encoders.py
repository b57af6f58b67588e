"""The interface of image encoders, and shared parts: input normalisation, position embeddings, running layers.

An encoder takes images as the data pipeline delivers them, float32 in [0, 1] with 1 or 3 channels, and applies the
normalisation that its weights were trained with (three channels, a mean and a standard deviation).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from typing_extensions import Self

PATCH_SIZE = 16
MAX_IMAGE_SIZE = 1024  # SAM's own; the memory of its global attention grows with the fourth power of the side


class EncoderOutput(NamedTuple):
    """Output of an encoder; the encoder's ``embed_stride`` and ``feature_strides`` are the strides ``s`` and ``s_l``.

    Attributes:
        image_embeddings: the encoder's final output, ``(B, embed_dim, H / s, W / s)``.
        features: hidden states from several depths, shallow to deep, each ``(B, C_l, H / s_l, W / s_l)``.
    """

    image_embeddings: Tensor
    features: tuple[Tensor, ...]


class EncoderState(NamedTuple):
    """An encoder stopped between two layers, in the layout of its layers.

    Attributes:
        hidden: input of the next layer, ``(B, ...)``.
        features: outputs of the layers run so far whose outputs the encoder returns, each ``(B, ...)``.
    """

    hidden: Tensor
    features: tuple[Tensor, ...]


class ImageEncoder(Protocol):
    """Protocol of the encoders, used by decoders, LoRA and distillation; implementations are ``nn.Module``s.

    Attributes:
        backbone: module that LoRA is injected into and peft then wraps, passing attribute access through; its parameter
            names are those of the published weights.
        normalise: maps ``(B, 1 | 3, H, W)`` in [0, 1] to ``(B, 3, H, W)`` with the weights' own mean and std.
        image_size: ``(H, W)`` in pixels, the only input size accepted.
        embed_dim: channels of ``image_embeddings``.
        embed_stride: pixels per position of ``image_embeddings`` along each axis: 4, 8 or 16.
        feature_channels: channels of each entry of ``features``.
        feature_strides: pixels per position of each entry of ``features``: 4, 8 or 16.
        layers: the layers that run one after another, first to last.
        default_lora_targets: names of the linear layers that LoRA adapts by default.
    """

    backbone: Any
    normalise: InputNormalisation
    image_size: tuple[int, int]
    embed_dim: int
    embed_stride: int
    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]
    default_lora_targets: tuple[str, ...]
    training: bool

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers that run one after another, first to last; LoRA may be inside them."""
        ...

    def __call__(self, images: Tensor) -> EncoderOutput:
        """Encodes images (B, 1 | 3, H, W) in [0, 1]: ``finish(begin(images, 0), 0)``."""
        ...

    def begin(self, images: Tensor, count: int) -> EncoderState:
        """Embeds images (B, 1 | 3, H, W) in [0, 1] and runs the first ``count`` layers."""
        ...

    def finish(self, state: EncoderState, count: int) -> EncoderOutput:
        """Runs the layers after the first ``count`` on what :meth:`begin` returned."""
        ...

    def resize_to(self, image_size: int | Sequence[int]) -> None:
        """Interpolates positions to another image size, in place; the same size changes nothing."""
        ...

    def checkpoint_gradients(self, enabled: bool) -> None:
        """Enables or disables recomputation of each layer in the backward pass, which saves memory."""
        ...

    def initialise_randomly(self) -> None:
        """Randomly initialises parameters that construction leaves at zero, for an untrained control."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """``nn.Module.requires_grad_``."""
        ...

    def eval(self) -> Self:
        """``nn.Module.eval``."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """``nn.Module.to``."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """``nn.Module.parameters``."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """``nn.Module.modules``."""
        ...

    def get_submodule(self, target: str) -> nn.Module:
        """``nn.Module.get_submodule``."""
        ...

    def set_submodule(self, target: str, module: nn.Module) -> None:
        """``nn.Module.set_submodule``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """``nn.Module.state_dict``."""
        ...


class EncoderArchitecture(Protocol):
    """Protocol of an encoder's dimensions, which build the encoder and select its entries of a weights file."""

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> ImageEncoder:
        """Returns an encoder with random weights.

        Args:
            image_size: side in pixels of the images that the weights were trained on.
            mean: mean of each colour channel, for input in [0, 1].
            std: standard deviation of each colour channel.
        """
        ...

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the entries of a weights file that belong to the backbone, under its parameter names."""
        ...


class InputNormalisation(nn.Module):
    """Repeats grey to three channels and applies ``(x - mean) / std``.

    Args:
        mean: one value per colour channel, in [0, 1].
        std: one positive value per colour channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns ``(B, 3, H, W)`` from ``(B, 1 | 3, H, W)``.

        Raises:
            ValueError: if images are not four-dimensional with 1 or 3 channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"Expected images of shape (B, 1 or 3, H, W), found {tuple(images.shape)}.")
        return (images.expand(-1, 3, -1, -1) - self.mean) / self.std


class LayeredEncoder(nn.Module):
    """Base of the encoders: images are embedded, layers run one after another, their outputs become maps.

    A subclass sets ``image_size``, ``feature_depths`` and ``backbone``, and implements ``layers``, ``_embed`` and
    ``_output``; with the other attributes of :class:`ImageEncoder` it satisfies that protocol.

    Args:
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.
    """

    image_size: tuple[int, int]
    feature_depths: tuple[int, ...]
    backbone: Any  # with LoRA this is a PeftModel, which passes attribute access through

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalise = InputNormalisation(mean, std)
        self.recompute_layers = False

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers that run one after another, first to last."""
        raise NotImplementedError

    def _embed(self, pixels: Tensor) -> Tensor:
        """Returns the input of the first layer for normalised images ``(B, 3, H, W)``."""
        raise NotImplementedError

    def _output(self, state: EncoderState) -> EncoderOutput:
        """Returns the output of the encoder from the state after the last layer."""
        raise NotImplementedError

    def _callables(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Returns the layers as functions of the hidden state only."""
        return self.layers

    def forward(self, images: Tensor) -> EncoderOutput:
        """Encodes images.

        Args:
            images: ``(B, 1 | 3, H, W)`` in [0, 1], of the encoder's ``image_size``.

        Returns:
            Image embeddings and features; the class states their shapes.

        Raises:
            ValueError: if the size or the number of channels is another.
        """
        return self.finish(self.begin(images, 0), 0)

    def begin(self, images: Tensor, count: int) -> EncoderState:
        """Embeds images and runs the first ``count`` layers, see :meth:`forward`."""
        check_image_size(images, self.image_size)
        return self._run(EncoderState(self._embed(self.normalise(images)), ()), 0, count)

    def finish(self, state: EncoderState, count: int) -> EncoderOutput:
        """Runs the layers after the first ``count``, see :meth:`forward`."""
        return self._output(self._run(state, count, len(self.layers)))

    def _run(self, state: EncoderState, start: int, stop: int) -> EncoderState:
        """Runs layers ``start`` to ``stop`` (excluded) and adds the outputs of those in ``feature_depths``."""
        own = [depth - start for depth in self.feature_depths]
        recompute = self.recompute_layers and self.training
        hidden, kept = run_layers(self._callables()[start:stop], state.hidden, own, recompute=recompute)
        return EncoderState(hidden, (*state.features, *kept))

    def checkpoint_gradients(self, enabled: bool) -> None:
        """Enables or disables recomputation of each layer in the backward pass; evaluation is not affected."""
        self.recompute_layers = enabled


def image_size_hw(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Returns ``(height, width)`` in pixels from a side length or a pair.

    Raises:
        ValueError: if a side is not a multiple of 16 from 16 to 1024.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(int(side) for side in image_size)
    if len(sides) != 2 or any(not 0 < side <= MAX_IMAGE_SIZE or side % PATCH_SIZE for side in sides):
        raise ValueError(
            f"Expected image_size (H, W) as multiples of {PATCH_SIZE} up to {MAX_IMAGE_SIZE}, found {image_size}; "
            "choose the task's image_size accordingly."
        )
    return sides[0], sides[1]


def check_image_size(images: Tensor, image_size: tuple[int, int]) -> None:
    """Checks that images have the encoder's size.

    Raises:
        ValueError: if they have another size; names both sizes.
    """
    if tuple(images.shape[-2:]) != image_size:
        raise ValueError(
            f"Expected images of {image_size[0]}x{image_size[1]} pixels, found {images.shape[-2]}x{images.shape[-1]}; "
            "resize the images or build the encoder with that image_size."
        )


def token_grid(image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the tokens along height and width of an image ``(H, W)`` in pixels."""
    return image_size[0] // PATCH_SIZE, image_size[1] // PATCH_SIZE


def interpolate_positions(positions: Tensor, grid: tuple[int, int], *, antialias: bool) -> Tensor:
    """Interpolates learned positions bicubically.

    Args:
        positions: ``(1, h, w, C)``.
        grid: ``(h', w')`` in tokens.
        antialias: whether downsampling averages over neighbours, as in timm but not in code that uses SAM.

    Returns:
        ``(1, h', w', C)``.
    """
    channels_first = positions.permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return resized.permute(0, 2, 3, 1).contiguous()


def evenly_spaced_depths(depth: int, count: int = 4) -> tuple[int, ...]:
    """Returns up to ``count`` layer indices, the last layer included: 12 layers give (2, 5, 8, 11)."""
    return tuple(sorted({(level + 1) * depth // count - 1 for level in range(count) if (level + 1) * depth >= count}))


def linear_layer_names(layers: Iterable[nn.Module]) -> tuple[str, ...]:
    """Returns the names of the linear layers inside an encoder's layers, each once: suffixes that LoRA can target."""
    names = (name for layer in layers for name, module in layer.named_modules() if isinstance(module, nn.Linear))
    return tuple(dict.fromkeys(names))


def without_adapter(backbone: Any) -> Any:
    """Returns the module that ``peft`` wraps, LoRA included; a module without an adapter is returned as it is."""
    return backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone


def run_layers(
    layers: Iterable[Callable[[Tensor], Tensor]], hidden: Tensor, depths: Collection[int], *, recompute: bool
) -> tuple[Tensor, list[Tensor]]:
    """Runs layers one after another.

    Args:
        layers: each maps its input to that of the next, in any shape.
        hidden: input of the first layer.
        depths: indices of the layers whose outputs are returned as well.
        recompute: whether the backward pass runs each layer again instead of keeping its activations (gradient
            checkpointing): less memory, the same gradients, about a third more time.

    Returns:
        The last layer's output, and the outputs of the layers in ``depths``, first to last.
    """
    kept = []
    for index, layer in enumerate(layers):
        hidden = checkpoint(layer, hidden, use_reentrant=False) if recompute else layer(hidden)
        if index in depths:
            kept.append(hidden)
    return hidden, kept
