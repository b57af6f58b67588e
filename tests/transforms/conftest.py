"""The volumes that the tests of inference write."""

from tests.inference.conftest import write_nifti

__all__ = ["write_nifti"]
