"""Files on disk, whatever their content; the lowest layer, which imports neither torch nor any other package of ours.

- `atomic`: files that are either complete or absent.
- `json_files`: JSON read strictly, written atomically, its fields checked.
- `checksum`: SHA-256 of files and folders, cached between calls.
- `limits`: limits on header values before memory is allocated, and errors for damaged files.
- `file_kind`: recognises files given as weights that are something else.
- `archives`: safe unpacking of public datasets.
- `folder_lock`: one process at a time in an output folder.
- `private_files`, `redaction`: keep what identifies a patient out of outputs and messages.
- `option_path`: paths from a bundle's command line.
"""
