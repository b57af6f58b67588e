"""Every command's help fits a screen, and its examples run; the options that documents show exist."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.support.paths import BUNDLES, ROOT
from tskd_monai.bundle.zoo.names import ZOO_NAMES
from tskd_monai.commands.command_parser import CommandParser
from tskd_monai.commands.main import COMMANDS, main
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json, write_json

COLUMNS, LINES = 100, 40
PARSED = ("annotate", "curve", "demo", "extend", "label", "teachers", "train")
"""Commands that run for minutes, until they are stopped, or on large weights: only their options are checked."""
ACTIONS = ("teachers get", "teachers try")
"""Commands within a command."""
SHORT = {
    "datasets": ["--allow-partial", "--split", "1", "1", "1"],
    "phantom": ["--shape", "12", "12", "4", "--spacing", "28", "28", "40"],
    "plan": ["--image-size", "48"],
}
"""What makes an example small; everything else is as shown."""
WRITTEN = {
    "check": ["check/check.html"],
    "datasets": ["data/chase/datalist.json"],
    "evaluate": ["evaluation/report.html"],
    "export": ["runs/mystudy/student/models/model.onnx", f"zoo/{ZOO_NAMES['segmentation']}/docs/usage.md"],
    "phantom": ["phantom/datalist.json"],
    "plan": ["runs/study/task.json"],
    "segment": ["predictions/volumes.csv"],
}
LIVER, SPLEEN = 1, 4
DOCUMENTS = [*ROOT.glob("*.md"), *BUNDLES.glob("*/docs/*.md"), *ROOT.glob("scripts/*.sh")]
CALL = re.compile(rf"\btskd ({'|'.join([*ACTIONS, *COMMANDS])})\b((?:\\\n|[^\n`#|])*)")

LINE = re.compile(rf"^ *(?:\$ )?tskd ((?:{'|'.join(COMMANDS)})\b.*)$", re.MULTILINE)


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Returns the lines of a command's help."""
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out.splitlines()


def examples_of(command: str, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Returns the words of each example in a command's help, after `tskd`."""
    return [shlex.split(line)[1:] for line in help_of(command, capsys) if line.startswith("tskd ")]


class Parsed(Exception):
    """Ends a command once its options are parsed; its argument is the parser."""


def parser_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> CommandParser:
    """Returns the parser of a command once it has parsed the options."""
    parse = CommandParser.parse_args

    def parse_only(parser: CommandParser, arguments: list[str]) -> None:
        parse(parser, arguments)
        raise Parsed(parser)

    module = import_module(f"tskd_monai.commands.{COMMANDS[words[0]][0]}")
    monkeypatch.setattr(CommandParser, "parse_args", parse_only)
    with pytest.raises(Parsed) as parsed:
        module.main(words[1:])
    monkeypatch.undo()
    parser: CommandParser = parsed.value.args[0]
    return parser


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name: data, scans, a student and a download."""
    folder = tmp_path_factory.mktemp("workplace")
    sections = {"training": 3, "validation": 1, "test": 1}
    datalist = write_study(folder / "study", seed=3, sections=sections, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    content = read_json(datalist)
    cases = {section: [entry["case"] for entry in content[section]] for section in sections}
    write_json(datalist, {**content, "folds": [cases]})
    images, labels = (sorted((folder / "study" / name).iterdir()) for name in ("images", "labels"))
    for kind in ("images", "labels"):
        (folder / "mydata" / kind).mkdir(parents=True)
    for image, label in zip(images, labels, strict=True):
        shutil.copy(image, folder / "mydata" / "images")
        classes = nib.load(label)
        kept = np.where(np.isin(classes.dataobj, (LIVER, SPLEEN)), classes.dataobj, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(kept, classes.affine), folder / "mydata" / "labels" / label.name)
    write_study(folder / "phantoms", seed=3, sections={"test": 2})  # coarse images would be rejected
    (folder / "phantoms" / "images").rename(folder / "scans")
    scans = sorted((folder / "scans").iterdir())
    for name, image in zip(("scan.nii.gz", "other.nii.gz"), scans, strict=True):
        shutil.copy(image, folder / name)
    scan = nib.load(folder / "scan.nii.gz")
    write_dicom_series(folder / "series", np.asarray(scan.dataobj).astype(np.uint16), scan.affine, seed=3)
    shutil.copytree(BUNDLES / "segmentation", folder / "runs" / "mystudy" / "student")
    shutil.copy(ROOT / "tskd_monai" / "bundle" / "zoo" / "shipped_student.yaml", folder / "card.yaml")
    write_download(folder / "CHASEDB1")
    return folder


def write_download(folder: Path) -> None:
    """Writes the download of CHASE_DB1 with three children, tiny, as a zip."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (f"Image_0{child}{eye}" for child in (1, 2, 3) for eye in "LR"):
        Image.fromarray(rng.integers(0, 256, (40, 42, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")
        for reader in ("1st", "2nd"):
            Image.fromarray(rng.integers(0, 2, (40, 42), dtype=np.uint8) > 0).save(folder / f"{name}_{reader}HO.png")
    shutil.make_archive(str(folder), "zip", folder)


@pytest.mark.parametrize("command", [*COMMANDS, *ACTIONS])
def test_the_help_fits_a_screen_and_has_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    lines = help_of(command, capsys)
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS
    assert any(line.startswith(f"tskd {command}") for line in lines)
    for words in examples_of(command, capsys):
        assert parser_of(words, monkeypatch).prog.startswith(f"tskd {words[0]}")


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in PARSED])
def test_the_examples_run(
    command: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    for words in examples_of(command, capsys):
        assert main([*words, *SHORT.get(words[0], [])]) == 0, words
        assert capsys.readouterr().out or command in WRITTEN
    assert [path for path in WRITTEN.get(command, []) if not (workplace / path).is_file()] == []


def test_options_in_documents_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of a documented `tskd` call is one of the command's."""
    known = {command: "\n".join(help_of(command, capsys)) for command in [*COMMANDS, *ACTIONS]}
    shown = [
        (document.name, command, option)
        for document in DOCUMENTS
        for command, words in CALL.findall(document.read_text(encoding="utf-8"))
        for option in re.findall(r"(?<![\w-])--[\w-]+", words)
    ]
    assert len(shown) > 10
    wrong = [call for call in shown if not re.search(rf"{call[2]}(?![\w-])", known[call[1]] + "--help --debug")]
    assert wrong == []


def test_commands_in_documents_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a code block that calls `tskd` has the arguments of its command."""
    shown = [
        shlex.split(line, comments=True)
        for document in DOCUMENTS
        for block in re.findall(
            r"^```.*?^```|(?:^ {4}\S.*\n)+", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
        for line in LINE.findall(block.replace("\\\n", " "))
    ]
    assert len(shown) > 20
    for words in shown:
        assert parser_of(words, monkeypatch).prog.startswith(f"tskd {words[0]}"), words
