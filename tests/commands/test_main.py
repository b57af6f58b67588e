"""The command `tskd`: fast help, and one exit code per kind of failure."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser

import pytest

from tests.support.paths import ROOT
from tskd_monai import __version__
from tskd_monai.commands.main import COMMANDS, main

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


@pytest.mark.slow
@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_a_command_imports_nothing_slow(command: str) -> None:
    """The help of a command appears within a second, although MONAI takes five to import."""
    done = subprocess.run([sys.executable, "-c", HELP, command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: tskd {command} ")
    assert done.stdout.splitlines()[-1] == "[]"
