"""Recognises files given as weights that are something else: a pointer, a web page, an archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

HEAD_BYTES = 512
GIT_LFS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")
ANNEX = (b"/annex/objects/", b"../.git/annex/", b".git/annex/")
MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml")
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
ZIP = b"PK\x03\x04"
TORCH_PART = "data.pkl"
AGAIN = "copy or download it again"


def refuse_other_kinds(path: Path) -> None:
    """Rejects a file that is not a weights file, judged by its first bytes or its size.

    Args:
        path: existing file, of torch or safetensors.

    Raises:
        ValueError: if it is something else; states what it is, and what to do.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if (found := _kind(path, head)) is not None:
        kind, advice = found
        raise ValueError(f"Expected weights in {path}, found {kind}; {advice}.")


def _kind(path: Path, head: bytes) -> tuple[str, str] | None:
    """Returns what the file is and what to do, None if it may contain weights."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file", AGAIN
    if head.startswith(GIT_LFS):
        return "a Git LFS pointer, which stands for the file", "fetch the file itself with `git lfs pull`"
    if head.startswith(ANNEX):
        return "a git-annex pointer, which stands for the file", "fetch the file itself with `git annex get`"
    if start.startswith(MARKUP):
        return "a web page, as left by a failed download", "download it again and check the address and the login"
    for mark, name in PACKED.items():
        if head.startswith(mark):
            return f"a {name} archive", "unpack it and give the file in it"
    if path.suffix == ".safetensors":
        return _kind_of_safetensors(path, head)
    if head.startswith(ZIP):
        return _kind_of_zip(path)
    if head[8:9] == b"{":
        return "a safetensors file under another name", "give it a name that ends in .safetensors"
    if _is_text(head):
        return "a text file", AGAIN
    return None


def _kind_of_safetensors(path: Path, head: bytes) -> tuple[str, str] | None:
    """Returns what a file named `.safetensors` is; its first 8 bytes are the length of the header that follows."""
    if head.startswith((ZIP, b"\x80")):
        return "a file of torch under another name", "give it a name that ends in .pt"
    if head[8:9] != b"{" and _is_text(head):
        return "a text file", AGAIN
    if 8 + int.from_bytes(head[:8], "little") > path.stat().st_size:
        return "a file that is damaged or truncated", AGAIN
    return None


def _kind_of_zip(path: Path) -> tuple[str, str] | None:
    """Returns what a zip file is; its central directory comes last."""
    damaged = "a file that is damaged or truncated", AGAIN
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.namelist()
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, OSError):
        return damaged
    if not any(Path(part).name == TORCH_PART for part in parts):
        return "a zip archive that torch did not write", "unpack it and give the file in it"
    return None


def _is_text(head: bytes) -> bool:
    """Returns whether the bytes are printable; so are pickles of protocol 0, in which nobody saves weights."""
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head) and not head.startswith(b"\x80")


def damaged_part(path: Path) -> str | None:
    """Returns the first part of a torch file whose checksum does not match; torch itself would load it.

    Args:
        path: path of a zip file; other kinds of file have no checksums.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, EOFError, OSError) as error:
        return type(error).__name__
