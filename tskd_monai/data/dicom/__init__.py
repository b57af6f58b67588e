"""DICOM input through `tskd_monai.data.volume_reader.VolumeReader`, and output through `seg_writer.DicomSegWriter`.

From a folder to a volume:

- `tree`, `series`: the image files of a folder, grouped into series.
- `header`, `claims`, `frames`: one header per slice, each element checked before use.
- `identity`: whether the slices are of one volume. `geometry`: their order and affine; gantry tilt, missing and uneven
  slices are refused here. `resampling`: resamples such slices with `--irregular resample`.
- `reader`: the voxels.

Labels: `label_references`, the series that a SEG or RTSTRUCT was drawn on; `label_reader`, its structures, by
`seg_reader` or `rtstruct_reader`.

Back to DICOM: `seg_source`, the source files and the elements that a result copies from them; `result_writer`, what the
writers share, such as codes; `seg_writer`, `rtstruct_writer`, `overlay_writer`, `report_writer`. `header` keeps values
of elements out of the logs.
"""
