"""Segmentation of cases: from files to label maps on their own grids.

`cases` finds and reads them, `segmentation_run` keeps the record of each, `label_map_inferer` runs the network slice by
slice in one of the `engines` and restores the image's grid with `image_grid`, and `outputs` postprocesses and writes.
`export` makes the files that engines other than torch run.
"""

from functools import partial

from tskd_monai.former_names import former_module

__getattr__ = partial(former_module, __name__)
