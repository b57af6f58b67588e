"""The table of encoders in the documents states what the records state."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.files.shipped import BUNDLES
from tskd_monai.networks.cost import count_parameters
from tskd_monai.networks.encoder_records import ENCODERS, HALF, IMAGENET_MEAN, ZERO

TABLE = BUNDLES / "teacher_lora" / "docs" / "encoders.md"
MEANS = {IMAGENET_MEAN: "ImageNet", HALF: "0.5", ZERO: "none"}


def documented() -> dict[str, list[str]]:
    """Returns the columns after the name of each row of the table, by name."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_encoder_has_its_row():
    assert list(documented()) == list(ENCODERS)


@pytest.mark.parametrize("name", ENCODERS)
def test_its_row_states_what_the_record_states(name):
    record = ENCODERS[name]
    with torch.device("meta"):
        encoder = record.architecture.build(record.image_size, record.mean, record.std)
    strides = sorted({*encoder.feature_strides, encoder.embed_stride})
    expected = [
        f"{count_parameters(encoder) / 1e6:.1f} M",
        str(record.image_size),
        ", ".join(map(str, strides)),
        MEANS[record.mean],
        record.licence,
    ]
    found = documented()[name]
    assert found[:-1] == expected
    assert "/" not in record.source or record.source.split("/")[-1] in found[-1] or record.shipped


def test_what_an_encoder_has_seen_is_stated():
    text = " ".join(TABLE.read_text(encoding="utf-8").split())
    for record in ENCODERS.values():
        if record.has_seen is not None:
            first = record.has_seen.split(",")[0].split(" (")[0]
            assert f"`{record.name}`: {first}" in text or f"`{record.name}`: {first};" in text, record.name
