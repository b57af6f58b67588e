"""Public datasets: from the layout of the official download to checked files and a datalist. Nothing is downloaded.

One module per dataset says what its download looks like; the rest is common to all:

- `dataset`: what such a module returns, a `PublicDataset` of a `Description` and its `Sample`s.
- `layout`, `masks`, `workbook`, `writing`: files found or reported missing, masks read, files written.
- `preparation` writes the files, reads them back through `inspection`, and draws sections (`splits`);
  `verification` checks a prepared folder again.
- `phantom`: the embedded dataset, images of nobody.

To add a dataset, `NAME`, with `ph2` as the shortest example:

1. Write `datasets/NAME.py`. Its docstring shows the layout of the download and where that is known from. `DESCRIPTION`
   states labels, licence, reference, how patients are known, and how many images and patients the official download
   has. `find(source)` returns the `PublicDataset`: for each image a `Sample` with the patient, the image (`copied`
   where the file can be taken as it is), the label as a file of declared values, and the authors' section where there
   is one. A missing file is reported through `layout`; pixels are read only when a file is written.
2. Add the name and `find` to `PREPARERS` in `tskd_monai/commands/datasets.py`.
3. Write `tests/datasets/test_NAME.py`: a tiny download in the official layout, prepared, verified and planned by the
   fixture `prepare`; the labels voxel by voxel; a file that is missing.
4. Add its row to `bundles/segmentation/docs/datasets.md`.
"""
