"""The project's documents as an exported bundle has them: they name no file that the bundle lacks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

FENCE = re.compile(r"```.*?```\n*|(?<=\n\n)(?: {4}[^\n]*\n)+\n?", re.DOTALL)
"""A block of code, fenced or indented."""
FILE = re.compile(r"\b(?:scripts|tests|tskd_monai)/[\w./-]*\w")
"""A file of code: an exported bundle has its own under `scripts/`."""
COMMAND = re.compile(r"\btskd [a-z]+")
"""A command of the package, which has to be installed for it."""
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
PICTURE = re.compile(r"<picture>.*?</picture>\n*|!\[[^\]]*\]\([^)]*\)\n*", re.DOTALL)
PROJECT = "tskd-monai"


def write_documents(sources: Mapping[str, Path], folder: Path, replaced: Mapping[str, str]) -> None:
    """Writes documents into `folder/docs`, once the bundle's other files are there.

    Args:
        sources: the project's document for each name in `docs`.
        folder: of the exported bundle.
        replaced: what is written instead of what, first of all.
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
    """Returns a document without what an exported bundle does not have.

    Blocks with the project's commands and programs are left out, their names in the text state whose they are, and
    links and pictures lead to files of the bundle or become plain text.

    Args:
        text: Markdown.
        files: of the bundle, by their paths below it.
        documents: names of the documents beside this one.
    """
    text = FENCE.sub(lambda block: "" if _of_the_project(block.group(), files) else block.group(), text)
    text = PICTURE.sub("", text)
    text = LINK.sub(lambda link: _link(link.group(1), link.group(2), documents), text)
    return CODE.sub(lambda code: _named(code.group(1), files), text)


def _of_the_project(text: str, files: Collection[str]) -> bool:
    """Returns whether a text names a command of the package, or a file of code that the bundle lacks."""
    return bool(COMMAND.search(text)) or not set(FILE.findall(text)) <= set(files)


def _link(text: str, target: str, documents: Collection[str]) -> str:
    file = target.partition("#")[0]
    if re.match(r"https?://", target) or not file or file in documents:
        return f"[{text}]({target})"
    return text


def _named(code: str, files: Collection[str]) -> str:
    """Returns code in a line of text; a program or a command of the project states whose it is."""
    if not _of_the_project(code, files):
        return f"`{code}`"
    return f"{PROJECT}'s `{FILE.sub(lambda file: file.group().removeprefix('scripts/'), code)}`"
