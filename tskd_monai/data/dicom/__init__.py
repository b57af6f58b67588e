"""DICOM in by `tskd_monai.data.volume_reader.VolumeReader`, and out by `seg_writer.DicomSegWriter`.

From a folder to a volume:

- `tree`, `series`: which files of a folder are images of one series, and which series is meant.
- `header`, `claims`, `frames`: one header per slice, each element that is used checked before it is used.
- `identity`: whether the slices are one volume. `geometry`: their order and affine; a gantry tilt, missing and uneven
  slices are refused here. `resampling`: what `--irregular resample` does with them instead.
- `reader`: the voxels.

Back to DICOM: `seg_source`, the files that were read and what a SEG takes from them; `seg_writer`, the SEG with its
codes. `log` keeps values of elements out of the logs.
"""
