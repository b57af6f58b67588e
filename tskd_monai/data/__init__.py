"""Tasks, datalists, planning, and the readers and writers of images and label maps.

- `task`, `datalist`, `planning`: the classes to segment, the images, and the plan of a task.
- `volume_reader`: the reader of every image, which uses `nifti`, `itk_file`, `image_file` and `dicom`. `nrrd` and
  `meta_image` check the headers of the files that ITK reads.
- `grid`, `labels`: comparison of voxel grids, and checks of label maps. `structures`, `slicer_segmentation`: labels
  that are structures with names; `contours`: contours to pixels and back.
- `segmentation_writers`, `output_names`: writers of label maps on the grid of their image.
- `slices`: datasets of slices. `fitness`: ranges of the training images, and images outside of them.
- `transfer_set`, `gates_file`, `verdict`: file formats of synthetic images, and of the results of their gates.

Files from outside may be truncated, altered or malicious. Readers of files, here and in the other packages, end in one
of these ways only:

- They return what their docstring states, checked.
- `ValueError` when the content is wrong and `FileNotFoundError` when a file is missing; exactly these types, not a
  subclass of a library. The message names the file (for a DICOM series or a folder of files at least the folder) and,
  in JSON, the key.
- `ImportError` where a package that decodes the pixels is not installed; it names the extra.

An `OSError` of another type means that the operating system refused: permission, full disk, defective medium. Memory is
allocated for what a file holds, never for what its header states. `tests/reliability/mutate_parsers.py` tests the
readers on mutated files.
"""
