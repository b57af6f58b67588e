"""The only folder of an output that names inputs: which output belongs to which input is recorded there.

Outputs are passed on: to a colleague, in a report, in a repository. What may name a patient, that is the path of an
input (folders are often named after patients) and messages with such a path, goes into `private/`, which is kept. Names
of outputs that stand for a path are derived with a key in that folder, so that a guessed path cannot be verified: this
is pseudonymisation as in article 4(5) of the GDPR, with the key kept separately.
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
    """Returns the path of a private file of an output folder; creates `private/`, readable by its owner only.

    Args:
        output_dir: output folder that contains the private folder.
        name: name of the file.
    """
    folder = Path(output_dir) / FOLDER
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_once(folder / "README.txt", NOTE)
    return folder / name


def private_name(output_dir: str | Path, text: str) -> str:
    """Returns eight hex digits that stand for a string in the names of this folder's outputs; deterministic.

    Args:
        output_dir: output folder whose key is used, or created.
        text: string to replace, such as a path.
    """
    return hmac.digest(_key(output_dir), text.encode(), "sha256").hex()[:8]


def _key(output_dir: str | Path) -> bytes:
    """Returns the key; of several processes that create it at the same time, the first one's is used by all."""
    path = private_file(output_dir, KEY)
    if not path.is_file():
        write_once(path, secrets.token_hex(KEY_BYTES) + "\n")
    key = bytes.fromhex(path.read_text().strip())
    if len(key) != KEY_BYTES:
        raise ValueError(f"Expected {KEY_BYTES} bytes in {FOLDER}/{KEY}, found {len(key)}; remove the file.")
    return key
