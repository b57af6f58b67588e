"""A name that transformers imports with its models."""

from torchvision.utils import make_grid as pil_to_tensor  # noqa: F401  # raises when it is called
