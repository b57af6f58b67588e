"""The project's documents, rewritten for an exported bundle: they name no file that the bundle lacks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

FENCE = re.compile(r"```.*?```\n*|(?<=\n\n)(?: {4}[^\n]*\n)+\n?", re.DOTALL)
"""A block of code, fenced or indented."""
FILE = re.compile(r"\b(?:scripts|tests|tskd_monai)/[\w./-]*\w")
"""A file of code: an exported bundle has its own under `scripts/`."""
COMMAND = re.compile(r"\btskd [a-z]+")
"""A command of the package, which must be installed to run it."""
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
PICTURE = re.compile(r"<picture>.*?</picture>\n*|!\[[^\]]*\]\([^)]*\)\n*", re.DOTALL)
PROJECT = "tskd-monai"


def write_documents(sources: Mapping[str, Path], folder: Path, replaced: Mapping[str, str]) -> None:
    """Writes documents into `folder/docs`, after the bundle's other files.

    Args:
        sources: the project's document for each name in `docs`.
        folder: folder of the exported bundle.
        replaced: strings to replace, with their replacements, applied first.
    """
    docs = folder / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    documents = {*sources, *(path.name for path in docs.iterdir())}
    for name, source in sources.items():
        text = source.read_text(encoding="utf-8")
        for old, new in replaced.items():
            text = text.replace(old, new)
        (docs / name).write_text(exported_document(text, files, documents), encoding="utf-8")


def exported_document(text: str, files: Collection[str], documents: Collection[str]) -> str:
    """Returns a document without references to what an exported bundle lacks.

    Code blocks with the project's commands and programs are removed, names of these in the text are marked as the
    project's, and links and images lead to files of the bundle or become plain text.

    Args:
        text: Markdown.
        files: files of the bundle, by path relative to it.
        documents: names of the documents in the same folder.
    """
    text = FENCE.sub(lambda block: "" if _of_the_project(block.group(), files) else block.group(), text)
    text = PICTURE.sub("", text)
    text = LINK.sub(lambda link: _link(link.group(1), link.group(2), documents), text)
    return CODE.sub(lambda code: _named(code.group(1), files), text)


def _of_the_project(text: str, files: Collection[str]) -> bool:
    """Returns whether a text names a command of the package, or a code file that the bundle lacks."""
    return bool(COMMAND.search(text)) or not set(FILE.findall(text)) <= set(files)


def _link(text: str, target: str, documents: Collection[str]) -> str:
    file = target.partition("#")[0]
    if re.match(r"https?://", target) or not file or file in documents:
        return f"[{text}]({target})"
    return text


def _named(code: str, files: Collection[str]) -> str:
    """Returns inline code; a program or command of the project is marked as such."""
    if not _of_the_project(code, files):
        return f"`{code}`"
    return f"{PROJECT}'s `{FILE.sub(lambda file: file.group().removeprefix('scripts/'), code)}`"
