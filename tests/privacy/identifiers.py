"""Identifiers planted in inputs, and the search for them in every byte of the outputs."""

from __future__ import annotations

import base64
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread

HEADERS = {
    "PatientName": "Plantedname^Jane^Quincy",
    "PatientID": "MRN4711PLANTED",
    "PatientBirthDate": "19640229",
    "StudyDate": "20190317",
    "SeriesDate": "20190317",
    "AcquisitionDate": "20190317",
    "ContentDate": "20190317",
    "AccessionNumber": "ACC99PLANTED",
    "ReferringPhysicianName": "Plantedreferrer^Paul",
    "OperatorsName": "Plantedoperator^Olga",
    "InstitutionName": "Plantedhospital",
    "StationName": "PLANTEDSTATION",
    "StudyDescription": "Plantedstudy of Jane",
    "SeriesDescription": "Plantedseries of Jane",
    "PatientComments": "Plantedcomment",
    "StudyID": "STUDYPLANTED1",
}
FOLDER = "Plantedfolder_Jane_1964-02-29"
"""Part of every path of the inputs."""

SERIES_FOLDER = "PLANTEDSERIES^JANE"
INSTANCE = "PLANTEDINSTANCE_JANE"
IDENTIFIERS = (
    *("Plantedname", "MRN4711PLANTED", "19640229", "1964-02-29", "20190317", "ACC99PLANTED", "Plantedreferrer"),
    *("Plantedoperator", "Plantedhospital", "PLANTEDSTATION", "Plantedstudy", "Plantedseries", "Plantedcomment"),
    *("STUDYPLANTED1", "Plantedfolder", "PLANTEDSERIES", "PLANTEDINSTANCE"),
)
BASE64_TEXT = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")
ZLIB_START = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
LARGEST_STREAM = 1 << 24


def plant(folder: Path) -> None:
    """Writes the identifiers into the headers and the names of a series' files."""
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        instance = dcmread(path)
        for name, value in HEADERS.items():
            setattr(instance, name, value)
        instance.save_as(path)
        path.rename(path.with_name(f"{INSTANCE}_{number:03d}.dcm"))


def found_identifiers(content: bytes) -> set[str]:
    """Returns the identifiers in some bytes: plain, in any case, in UTF-16, or compressed or encoded."""
    found: set[str] = set()
    for part in _layers(content, depth=3):
        lower = part.lower()
        wide = lower.replace(b"\0", b"")
        found |= {name for name in IDENTIFIERS if name.lower().encode() in lower or name.lower().encode() in wide}
    return found


def _layers(content: bytes, depth: int) -> Iterator[bytes]:
    """Yields the bytes and those compressed in them: zip (also npz, pt, ts), gzip, zlib streams (PNG, PDF), base64."""
    yield content
    if depth == 0:
        return
    for inner in _unpacked(content):
        yield from _layers(inner, depth - 1)


def _unpacked(content: bytes) -> Iterator[bytes]:
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
        return
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield "\n".join(archive.namelist()).encode()
            yield from (archive.read(name) for name in archive.namelist())
        return
    for start in ZLIB_START.finditer(content):
        try:
            yield zlib.decompressobj().decompress(content[start.start() :], LARGEST_STREAM)
        except zlib.error:  # two bytes that look like the start of a stream
            continue
    for text in BASE64_TEXT.finditer(content):
        whole = text.group().rstrip(b"=")
        yield base64.b64decode(whole[: len(whole) // 4 * 4])


def search(folder: Path, leave_out: tuple[str, ...]) -> tuple[int, list[str]]:
    """Returns how many files were searched and a line for each identifier found in a name or a content.

    Args:
        folder: folder of outputs, searched recursively.
        leave_out: names of folders, or suffixes of files, that are deliberately not searched.
    """
    searched, found = 0, []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if set(path.relative_to(folder).parts) & set(leave_out) or name.endswith(leave_out):
            continue
        found += [f"{name}: {identifier} in the name" for identifier in sorted(found_identifiers(name.encode()))]
        if path.is_file():
            searched += 1
            found += [f"{name}: {identifier}" for identifier in sorted(found_identifiers(path.read_bytes()))]
    return searched, found
