"""The command `tskd`: help at once, one exit code for what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tskd_monai import __version__
from tskd_monai.commands.main import COMMANDS, main

READ = (".md", ".ipynb", ".py", ".sh", ".yaml", ".json", ".html")
COMMAND = re.compile(r"(?<![\w/.-])(?:bin/)?tskd ([a-z_]+)\b(?! (?:is|was|has))")
PROGRAM = re.compile(r"\b(?:scripts|tests)/[\w/-]*\w\.(?:py|sh|yaml)\b")
SLOW = ("torch", "monai", "ignite", "transformers", "diffusers", "matplotlib")
"""Packages that take a second or more to import."""
HELP = f"""
import sys
from tskd_monai.commands.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
print([name for name in {SLOW} if name in sys.modules])
"""


def test_the_entry_point_is_this_command() -> None:
    setup = ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert setup["options.entry_points"]["console_scripts"].strip() == "tskd = tskd_monai.commands.main:main"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, text) in COMMANDS.items():
        assert f"  {name:<10}{text}" in lines


def test_version_is_the_package_s() -> None:
    done = subprocess.run([sys.executable, "-m", "tskd_monai", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"tskd {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["predict"], "invalid choice: 'predict'"),
        (["plan", "a.json", "--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_unknown_words_end_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_help_of_a_command_imports_nothing_slow(command: str) -> None:
    """The options of a command stand there within a second, where MONAI alone takes five to import."""
    done = subprocess.run([sys.executable, "-c", HELP, command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: tskd {command} ")
    assert done.stdout.splitlines()[-1] == "[]"


def texts() -> list[Path]:
    """Returns the files that people read: documents, sources, configs and shell scripts."""
    folders = [ROOT / name for name in ("bundles", "scripts", "tskd_monai")] + [ROOT / "tests" / "interop"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in READ] + list(ROOT.glob("*.md"))
    return [path for path in files if "results" not in path.parts]


def test_commands_that_texts_name_exist() -> None:
    named = {(path.name, word) for path in texts() for word in COMMAND.findall(path.read_text(encoding="utf-8"))}
    assert {word for _, word in named} >= {"plan", "train", "audit"}
    assert sorted((name, word) for name, word in named if word not in COMMANDS) == []


def test_programs_that_texts_name_exist() -> None:
    named = {(path.name, word) for path in texts() for word in PROGRAM.findall(path.read_text(encoding="utf-8"))}
    assert {word for _, word in named} >= {"scripts/demo.sh", "tests/interop/check_monai_label.sh"}
    assert sorted((name, word) for name, word in named if not (ROOT / word).exists()) == []
