"""Components shared by the training runs of all stages: checkpoints, resume, sampling, records."""

from functools import partial

from tskd_monai.former_names import former_module

__getattr__ = partial(former_module, __name__)
