"""A damaged history or table of metrics is rejected by file name, not with an arbitrary parser error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.evaluation.report.pipeline_content import read_history
from tskd_monai.evaluation.summary import COLUMNS, pixel_names, read_metrics

HEAD = ",".join(COLUMNS)
ROW = "a,1,liver,0.9,0.8,2.5,1.0,0.9,1500.0,1490.0,0"


def test_a_history_is_read_and_its_last_line_may_be_cut(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"epoch": 1, "train_loss": NaN}\n{"epoch": 2, "tra')
    assert [row["epoch"] for row in read_history(tmp_path / "history.jsonl")] == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\n{}\n", r"Expected text in .*history\.jsonl, found a damaged file"),
        (b"[" * 100_000 + b"\n{}\n", r"Expected one JSON object per line in .*history\.jsonl, found .* in line 1"),
        (b"9" * 5000 + b"\n{}\n", r"Expected one JSON object per line in .*history\.jsonl, found .* in line 1"),
        (b'{"train_loss": "low"}\n', r"Expected a row with a number train_loss in line 1 of .*history\.jsonl"),
        (b"{}\n", r"Expected a row with a number train_loss in line 1 of .*history\.jsonl"),
    ],
)
def test_a_damaged_history_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "history.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_history(tmp_path / "history.jsonl")
    assert type(raised.value) is ValueError


def test_a_table_in_pixels_that_lacks_a_column_is_refused_by_the_name_it_has_there(tmp_path: Path) -> None:
    names = list(pixel_names().values())
    (tmp_path / "metrics.csv").write_text(",".join(name for name in names if name != "area_px") + f"\n{ROW[2:]}\n")
    with pytest.raises(ValueError, match=r"metrics\.csv, missing area_px"):
        read_metrics(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    "content",
    [
        f"{HEAD}\n{ROW}\xff\n".encode("latin-1"),
        f"{HEAD}\n{ROW.replace('a,1', 'a,one')}\n".encode(),
        f"{HEAD}\n{ROW.replace('0.9', 'high')}\n".encode(),
        f"{HEAD}\n{ROW},extra\n".encode(),
        f"{HEAD}\na,1,liver\n".encode(),
        f"{HEAD}\n{ROW.replace('a,1', ',1')}\n".encode(),
        f"{HEAD}\n{'a' * 200_000},1\n".encode(),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected the metrics of a method in .*metrics\.csv, found") as raised:
        read_metrics(tmp_path / "metrics.csv")
    assert type(raised.value) is ValueError
