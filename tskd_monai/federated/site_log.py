"""Logs of a site: what libraries say about images stays in a private file, outside the logs of NVFlare.

NVFlare can send the logs of a site to the server, and its coordinator can read them, unless the site forbids both. An
error of a library may name a file, and files are named after patients.
"""

from __future__ import annotations

import logging
from pathlib import Path

from tskd_monai.files.private_files import private_file

PRIVATE_LOG = "training.log"
OWN = ("nvflare", "tskd_monai.federated")
"""Loggers whose messages name no files of the data."""


class _Own(logging.Filter):
    """Passes the records of `OWN` loggers, or all others."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.startswith(OWN) == self.own


def keep_reasons_private(output_dir: Path) -> None:
    """Diverts the records of all other loggers from the root's handlers to `private/training.log`, from now on.

    Args:
        output_dir: output folder of the site.
    """
    root = logging.getLogger()
    for handler in root.handlers:
        handler.addFilter(_Own(True))
    private = logging.FileHandler(private_file(output_dir, PRIVATE_LOG))
    private.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    private.addFilter(_Own(False))
    root.addHandler(private)
