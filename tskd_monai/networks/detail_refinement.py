"""What the image itself adds to logits of a quarter of its resolution on their way to full resolution.

Structures of a pixel or two are gone at a quarter of the resolution. The image's own features, at full and at half
resolution, bring them back.
"""

from __future__ import annotations

from torch import Tensor, nn

from tskd_monai.networks.light_decoder import ConvBlock, UpStep


class DetailRefinement(nn.Module):
    """A correction of bilinearly upsampled logits; zero until it is trained.

    Args:
        num_classes: channels of the logits.
        in_channels: channels of the image (3 after the encoder's normalisation).
        widths: channels at full and half resolution, multiples of 8.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, widths: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        full, half = widths
        self.at_full = ConvBlock(in_channels, full)
        self.at_half = ConvBlock(full, half, stride=2)
        self.to_half = UpStep(num_classes, half)
        self.to_full = UpStep(half, full)
        self.classify = nn.Conv2d(full, num_classes, kernel_size=1)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, low_res_logits: Tensor, images: Tensor) -> Tensor:
        """Returns ``(B, num_classes, H, W)``.

        Args:
            low_res_logits: ``(B, num_classes, H / 4, W / 4)``.
            images: ``(B, in_channels, H, W)``, normalised.
        """
        full = self.at_full(images)
        maps = self.to_half(low_res_logits, self.at_half(full))
        return self.classify(self.to_full(maps, full))
