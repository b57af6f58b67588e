"""Task-specific knowledge distillation for medical image segmentation, as MONAI bundles."""

__version__ = "0.1.0"
