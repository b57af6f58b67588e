"""The project's documents as an exported bundle has them: they name no file that the bundle lacks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

FENCE = re.compile(r"```.*?```\n*", re.DOTALL)
SCRIPT = re.compile(r"scripts/[\w./-]*\w")
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

    Commands of the project's scripts go, the names of these scripts in the text say whose they are, and links and
    pictures lead to files of the bundle or are plain text.

    Args:
        text: Markdown.
        files: of the bundle, by their paths below it.
        documents: names of the documents beside this one.
    """
    text = FENCE.sub(lambda block: block.group() if _scripts_of(block.group()) <= set(files) else "", text)
    text = PICTURE.sub("", text)
    text = LINK.sub(lambda link: _link(link.group(1), link.group(2), documents), text)
    return CODE.sub(lambda code: _named(code.group(1), files), text)


def _scripts_of(text: str) -> set[str]:
    return set(SCRIPT.findall(text))


def _link(text: str, target: str, documents: Collection[str]) -> str:
    file = target.partition("#")[0]
    if re.match(r"https?://", target) or not file or file in documents:
        return f"[{text}]({target})"
    return text


def _named(code: str, files: Collection[str]) -> str:
    """Returns code in a line of text, a script or a command of one, with whose it is where the bundle lacks it."""
    if _scripts_of(code) <= set(files):
        return f"`{code}`"
    return f"{PROJECT}'s `{SCRIPT.sub(lambda script: script.group().removeprefix('scripts/'), code)}`"
