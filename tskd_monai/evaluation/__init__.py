"""Metrics of predicted label maps, comparisons of methods, latency, and the report that shows them."""

from functools import partial

from tskd_monai.former_names import former_module

__getattr__ = partial(former_module, __name__)
