"""DICOM input through `tskd_monai.data.volume_reader.VolumeReader`, and output through `seg_writer.DicomSegWriter`.

From a folder to a volume:

- `tree`, `series`: the image files of a folder, grouped into series.
- `header`, `claims`, `frames`: one header per slice, each element checked before use.
- `identity`: whether the slices are of one volume. `geometry`: their order and affine; gantry tilt, missing and uneven
  slices are refused here. `resampling`: resamples such slices with `--irregular resample`.
- `reader`: the voxels.

Back to DICOM: `seg_source`, the source files and the elements that a SEG copies from them; `seg_writer`, the SEG with
its
codes. `header` keeps values of elements out of the logs.
"""
