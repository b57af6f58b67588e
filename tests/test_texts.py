"""What documents, messages and comments name exists: commands, files, and what links lead to."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.paths import ROOT
from tskd_monai.commands.main import COMMANDS

READ = (".md", ".ipynb", ".py", ".sh", ".yaml", ".json", ".html")
COMMAND = re.compile(r"(?<![\w/.-])(?:bin/)?tskd ([a-z_]+)\b(?! (?:is|was|has))")
FILE = re.compile(r"(?<![\w/.])(?:scripts|tests|tskd_monai|bundles)/[\w/-]*\w\.(?:py|sh|yaml|json|md|ipynb)\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def texts() -> list[Path]:
    """Returns the files that people read: documents, sources, configs and shell scripts."""
    folders = [ROOT / name for name in ("bundles", "scripts", "tskd_monai")] + [ROOT / "tests" / "interop"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in READ] + list(ROOT.glob("*.md"))
    return [path for path in files if "results" not in path.parts]


def test_commands_that_texts_name_exist() -> None:
    named = {(path.name, word) for path in texts() for word in COMMAND.findall(path.read_text(encoding="utf-8"))}
    assert {word for _, word in named} >= {"plan", "train", "audit"}
    assert sorted((name, word) for name, word in named if word not in COMMANDS) == []


def test_files_that_texts_name_exist() -> None:
    named = {(path.name, word) for path in texts() for word in FILE.findall(path.read_text(encoding="utf-8"))}
    assert {word for _, word in named} >= {"scripts/demo.sh", "tests/interop/check_monai_label.sh"}
    assert sorted((name, word) for name, word in named if not (ROOT / word).exists() and "NAME" not in word) == []


def anchors(document: Path) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub makes them."""
    headings = HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_of_documents_lead_to_files_and_headings() -> None:
    dead = []
    for document in (path for path in texts() if path.suffix == ".md" and path.name != "readme_template.md"):
        for link in LINK.findall(document.read_text(encoding="utf-8")):
            target, _, anchor = link.partition("#")
            path = document.parent / target if target else document
            if "://" in link or (path.exists() and (not anchor or anchor in anchors(path))):
                continue
            dead.append((document.name, link))
    assert dead == []
