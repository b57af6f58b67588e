"""The zoo's list of files that are too large for its repository, with their addresses and SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from tskd_monai.files.checksum import file_sha256

LIMIT_BYTES = 25 * 1000 * 1000
LIST_NAME = "large_files.yml"


def write_large_files(bundle: Path, urls: Mapping[str, str]) -> list[str]:
    """Writes `large_files.yml` if a file is above 25 MB, and returns those files.

    Args:
        bundle: the exported bundle.
        urls: download address of each such file, by path relative to the bundle.

    Raises:
        ValueError: if a large file has no address, or an address belongs to no large file of the bundle.
    """
    files = {path.relative_to(bundle).as_posix(): path for path in sorted(bundle.rglob("*")) if path.is_file()}
    if unknown := sorted(set(urls) - set(files)):
        raise ValueError(f"Expected --url for a file of the bundle, found {unknown[0]}; it has {', '.join(files)}.")
    large = [name for name, path in files.items() if path.stat().st_size > LIMIT_BYTES]
    if small := sorted(set(urls) - set(large)):
        raise ValueError(f"Expected --url for a file above 25 MB, found {small[0]}, which is in the bundle itself.")
    for name in large:
        if not urls.get(name, "").startswith(("https://", "http://")):
            raise ValueError(
                f"Expected --url {name}=https://…, found {urls.get(name, 'none')}: the zoo accepts no file above "
                f"25 MB and this one has {files[name].stat().st_size / 1e6:.1f} MB. Upload it and give its address."
            )
    if large:
        entries = [
            {"path": name, "url": urls[name], "hash_val": file_sha256(files[name]), "hash_type": "sha256"}
            for name in large
        ]
        (bundle / LIST_NAME).write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False), encoding="utf-8")
    return large
