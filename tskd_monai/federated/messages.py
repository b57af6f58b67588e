"""A record of what a site has sent: one line a message, for whoever answers for its data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.federated.update import SiteUpdate
from tskd_monai.federated.weights import num_bytes

RECORD_FILE = "sent.jsonl"
MESSAGES_FOLDER = "messages"


class MessageRecord:
    """Appends to `sent.jsonl`; each message is kept whole if the folder `messages/` exists beside it.

    Args:
        folder: output folder of the site.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, task: str, number: int, received: Mapping[str, np.ndarray], update: SiteUpdate, reply: Any) -> None:
        """Records a message.

        Args:
            task: name of the task.
            number: number of the round.
            received: tensors from the server.
            update: the site's message.
            reply: NVFlare's object that holds it, which is serialised as NVFlare sends it.
        """
        from nvflare.fuel.utils import fobs

        payload = fobs.dumps(reply)
        row = {
            "task": task,
            "round": number,
            "tensors": len(update.weights),
            "numbers": update.numbers,
            "tensor_bytes_received": num_bytes(received),
            "tensor_bytes_sent": num_bytes(update.weights),
            "message_bytes_sent": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
        with (self.folder / RECORD_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if (self.folder / MESSAGES_FOLDER).is_dir():
            (self.folder / MESSAGES_FOLDER / f"{task}_{number:04d}.fobs").write_bytes(payload)
