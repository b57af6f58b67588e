"""Where the weights of a teacher's encoder are: a place on this machine, which the teacher's record does not name.

`teacher.json` may be passed on, so of a local file it holds the name alone; the sha256 beside it says which weights
they were. The path stands in `private/encoder_weights.json`, which stays here.
"""

from __future__ import annotations

import json
from pathlib import Path

from tskd_monai.networks.encoder_records import ENCODERS
from tskd_monai.networks.pretrained import RANDOM, SHIPPED

PRIVATE_FILE = Path("private") / "encoder_weights.json"


def note_weights(folder: Path, weights: str) -> str:
    """Returns what a record may say of weights, and writes down the path of local ones.

    Args:
        folder: of the teacher.
        weights: path or hub id, ``"shipped"`` or ``"random"``.
    """
    if weights in (RANDOM, SHIPPED) or not Path(weights).exists():
        return weights
    place = folder / PRIVATE_FILE
    place.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = place.with_name(f".{place.name}.writing")
    temporary.write_text(json.dumps({"encoder_weights": str(Path(weights).absolute())}) + "\n", encoding="utf-8")
    temporary.replace(place)
    return Path(weights).name


def noted_weights(folder: Path, encoder: str, weights: str) -> str:
    """Returns where the weights of a record are: the noted path, else what the record says.

    A record may come from outside, and a hub id is an address: only that of the encoder's own publisher is gone to.

    Args:
        folder: of the teacher.
        encoder: name in ``ENCODERS``.
        weights: of the record.

    Raises:
        ValueError: if the record names a place on the hub that is not the encoder's publisher's.
    """
    if weights in (RANDOM, SHIPPED):
        return weights
    place = folder / PRIVATE_FILE
    if place.is_file():
        return str(json.loads(place.read_text(encoding="utf-8"))["encoder_weights"])
    if Path(weights).exists() or "/" not in weights or weights == ENCODERS[encoder].source:
        return weights
    raise ValueError(
        f"The teacher in {folder} names {weights} for the weights of {encoder}, which are published at "
        f"{ENCODERS[encoder].source}; pass encoder_weights if you mean that other place."
    )
