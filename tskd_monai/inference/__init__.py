"""Preprocessing, inference and postprocessing of whole cases."""

from functools import partial

from tskd_monai.former_names import former_module

__getattr__ = partial(former_module, __name__)
