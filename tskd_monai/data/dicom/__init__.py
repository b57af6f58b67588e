"""DICOM in and out. `tskd_monai.data.volume_reader.VolumeReader` is the way in."""
