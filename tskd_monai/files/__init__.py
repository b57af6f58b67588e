"""Files on disk, whatever is in them; the ground that every other package stands on, and none of it needs torch.

- `atomic`: files that are either whole or absent.
- `json_files`: JSON read strictly, written atomically, its fields checked.
- `checksum`: the sha256 of files and folders, remembered from one call to the next.
- `limits`: what a header may claim before memory is allocated for it, and how a damaged file is reported.
- `file_kind`: what a file is that was given as weights and is not.
- `archives`: public datasets unpacked safely.
- `folder_lock`: one process at a time in an output folder.
- `private_files`, `redaction`: what names a patient, kept apart from outputs and out of messages.
- `option_path`: paths as the command line of a bundle gives them.
"""
