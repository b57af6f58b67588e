"""The one folder of an output that names inputs: which file is whose stands there, and nowhere else.

An output folder is passed on: to a colleague, a report, a repository. What in it may name a patient, which is the path
of an input (folders are called after patients) and a message with such a path, goes into `private/`, which is kept. The
names of outputs that stand for a path are made with a key that lies there too, so that whoever guesses a path cannot
check the guess: this is pseudonymisation as in article 4(5) of the GDPR, the key being kept apart.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from tskd_monai.files.atomic import write_once

FOLDER = "private"
KEY = "key.txt"
KEY_BYTES = 32
NOTE = (
    "These files say which output belongs to which input, by its path. Keep this folder; pass on what lies beside it.\n"
    "key.txt turns paths into the names of outputs: without it a second run names them otherwise.\n"
)


def private_file(output_dir: str | Path, name: str) -> Path:
    """Returns the path of a private file of an output folder; the folder is made, readable by its owner only.

    Args:
        output_dir: that the private folder is part of.
        name: of the file.
    """
    folder = Path(output_dir) / FOLDER
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_once(folder / "README.txt", NOTE)
    return folder / name


def private_name(output_dir: str | Path, text: str) -> str:
    """Returns eight hex digits that stand for a text in the names of this folder's outputs, the same each time.

    Args:
        output_dir: whose key is used, or made.
        text: such as a path.
    """
    return hmac.digest(_key(output_dir), text.encode(), "sha256").hex()[:8]


def _key(output_dir: str | Path) -> bytes:
    """Returns the key; of several processes that make it at one time the first one's is everybody's."""
    path = private_file(output_dir, KEY)
    if not path.is_file():
        write_once(path, secrets.token_hex(KEY_BYTES) + "\n")
    key = bytes.fromhex(path.read_text().strip())
    if len(key) != KEY_BYTES:
        raise ValueError(f"Expected {KEY_BYTES} bytes in {FOLDER}/{KEY}, found {len(key)}; remove the file.")
    return key
