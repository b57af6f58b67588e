"""Public datasets: from the layout of the official download to checked files and a datalist. Nothing is downloaded.

One module per dataset describes its download; the rest is shared:

- `dataset`: what such a module returns, a `PublicDataset` with a `Description` and its `Sample`s.
- `layout`, `masks`, `workbook`, `writing`: find files or report what is missing, read masks, write files.
- `preparation` writes the files, reads them back through `inspection`, and assigns sections (`splits`);
    `verification` checks a prepared folder again.
- `phantom`: the embedded dataset of synthetic images.

To add a dataset, `NAME`, with `ph2` as the shortest example:

1. Write `datasets/NAME.py`. Its docstring shows the layout of the download and the source of that knowledge.
   `DESCRIPTION` states labels, licence, reference, how patients are identified, and the number of images and patients
   in the official download. `find(source)` returns the `PublicDataset`: for each image a `Sample` with the patient, the
   image (`copied` if the file can be used unchanged), the label as a file of declared values, and the authors' section
   if there is one. A missing file is reported through `layout`; pixels are read only when a file is written.
2. Add the name and `find` to `PREPARERS` in `tskd_monai/commands/datasets.py`.
3. Write `tests/datasets/test_NAME.py`: a tiny download in the official layout, prepared, verified and planned by the
      fixture `prepare`; check labels voxel by voxel, and a missing file.
4. Add its row to `bundles/segmentation/docs/datasets.md`.
"""
