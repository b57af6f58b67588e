"""Tasks, datalists, planning, and the readers and writers of images and label maps.

- `task`, `datalist`, `planning`: what is learned, from which images, and how that is planned.
- `volume_reader`: the way in for every image; behind it `nifti`, `image_file` and `dicom`.
- `grid`, `labels`: the one comparison of grids, and the one judgement of label maps.
- `segmentation_writers`, `output_names`: label maps out, on the grid of their image.
- `slices`: datasets of slices. `fitness`: ranges of images, and which images lie outside.
- `transfer_set`, `gates_file`: the formats of synthetic images, and of what their gates measured.

What comes from outside may be wrong in any way: cut short, altered, made by another program or by nobody who means
well. Readers of files, here and in the other packages, end in one of these ways only:

- They return what their docstring says, checked.
- `ValueError` where the content is wrong and `FileNotFoundError` where something is not there; these very types, not a
  subclass out of a library. The message names the file (for a DICOM series or a folder of files at least the folder)
  and, in JSON, the key.
- `ImportError` where a package that decodes the pixels is not installed; it names the extra.

An `OSError` of another type says that the operating system refused: permission, a full disk, a broken medium. Memory
is allocated for what a file holds, never for what its header claims. `tests/reliability/mutate_parsers.py` puts readers
to this test.
"""
