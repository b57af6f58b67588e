"""The command `tskd`: fast help, and one exit code per kind of failure."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tskd_monai import __version__, commands
from tskd_monai.commands.main import COMMANDS, REGISTRATION, main

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
    assert len(lines) <= 40 and f"  {REGISTRATION}" in lines
    for name, (_, text) in COMMANDS.items():
        assert f"  {name:<10}{text}" in lines


def test_version_is_the_package_s() -> None:
    done = subprocess.run([sys.executable, "-m", "tskd_monai", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"tskd {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "tskd: error: unknown command predict. See tskd --help"),
        (["segmnt", "a.nii.gz"], "tskd: error: unknown command segmnt; did you mean segment? See tskd --help"),
        (["--verison"], "tskd: error: unknown option --verison; did you mean --version? See tskd --help"),
        (["plan", "a.json", "--qqq=1"], "tskd plan: error: unknown option --qqq. See tskd plan --help"),
        (["evaluate", "shipped", "--output", "out"], "unknown option --output; did you mean --output-dir? See"),
        (["segment", "--output_dir", "out"], "unknown option --output_dir; did you mean --output-dir? See"),
        (["segment", "shipped", "--dicom-segs"], "unknown option --dicom-segs; did you mean --dicom-seg? See"),
        (["segment", "shipped", "a.nii", "--output-dir", f"{__file__}/out"], "/out, where test_main.py is a file. See"),
        (
            ["segment", "shipped"],
            "error: the following arguments are required: IMAGE. See tskd segment",
        ),
    ],
)
def test_unknown_words_end_with_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "  segment " in capsys.readouterr().err


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(SystemExit, match="2"):
        main(["phantom", "--output-dir", str(tmp_path / "new" / "out")])
    assert f"without permission for {tmp_path}; choose another one. See" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_the_same_parser() -> None:
    """Options of one spelling, without abbreviations, and errors in one line cannot be forgotten in a new command."""
    for path in Path(commands.__file__).parent.rglob("*.py"):
        assert path.name == "command_parser.py" or "ArgumentParser(" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("command", list(COMMANDS))
def test_options_are_spelt_with_dashes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = re.findall(r"(?<![\w-])--[\w-]+", capsys.readouterr().out)
    assert "--help" in options and [option for option in options if "_" in option or option == "--output"] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_a_command_imports_nothing_slow(command: str) -> None:
    """The help of a command appears within a second, although MONAI takes five to import."""
    done = subprocess.run([sys.executable, "-c", HELP, command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: tskd {command} ")
    assert done.stdout.splitlines()[-1] == "[]"


COMPLETE = f"""
import atexit, sys
from tskd_monai.commands.main import main
loaded = lambda: open('loaded', 'w').write(' '.join(name for name in {SLOW} if name in sys.modules))
import os
leave = os._exit
os._exit = lambda code: (loaded(), leave(code))
main()
"""


def completions(line: str, folder: Path) -> tuple[list[str], float]:
    """Returns the completions of a line, and the CPU seconds of the process, which imports nothing slow."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": "completions",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", COMPLETE], cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (folder / "loaded").read_text() == ""
    return (folder / "completions").read_text().split("\n"), after.ru_utime - before.ru_utime


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tskd ev", ["evaluate "]),
        ("tskd export --cal", ["--calibration "]),
        ("tskd segment shipped a.nii --output-format n", ["nifti", "nrrd"]),
        ("tskd datasets chaos_t1", ["chaos_t1_in", "chaos_t1_out"]),
        ("tskd label s", ["shipped", "scans/"]),
        ("tskd train my", ["mydata/"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(line: str, expected: list[str], tmp_path: Path) -> None:
    for name in ("scans", "mydata"):
        (tmp_path / name).mkdir()
    found, seconds = completions(line, tmp_path)
    assert found == expected
    assert seconds < 0.5


def test_bash_completes_after_the_documented_line(tmp_path: Path) -> None:
    # what bash does when Tab is pressed behind `tskd ev`
    press = "COMP_LINE='tskd ev' COMP_POINT=7 COMP_TYPE=9 COMP_WORDS=(tskd ev) COMP_CWORD=1; _python_argcomplete tskd"
    script = f"{REGISTRATION} && complete -p tskd && {press}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    registered, completed = done.stdout.splitlines()[-2:]
    assert registered.endswith(" -F _python_argcomplete tskd") and completed == "evaluate ", done.stderr
