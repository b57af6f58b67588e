"""A private Orthanc server on this machine only, for the checks against real DICOM software."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 60


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def orthanc(folder: Path, plugins: Sequence[Path] = ()) -> Iterator[str]:
    """Yields the address of an Orthanc server that stores its files in a new folder.

    Args:
        folder: folder to create.
        plugins: files of Orthanc's plugins to load, such as DICOMweb.
    """
    folder.mkdir()
    port = free_port()
    options: dict[str, Any] = {"Name": "check", "HttpPort": port, "RemoteAccessAllowed": False}
    options |= {"DicomServerEnabled": False, "Plugins": [str(plugin) for plugin in plugins]}
    options |= {"StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db")}
    (folder / "orthanc.json").write_text(json.dumps(options))
    with (folder / "orthanc.log").open("w") as log:
        server = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            request(f"{address}/system")
            return
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > end:
                raise SystemExit(f"FAILED: Orthanc did not answer in {START_SECONDS} s ({error})") from error
            time.sleep(0.2)


def request(address: str, content: bytes | None = None) -> bytes:
    """Returns the response to a GET, or to a POST if there is content."""
    with urllib.request.urlopen(urllib.request.Request(address, data=content), timeout=60) as answer:
        return bytes(answer.read())


def ask(address: str, content: bytes | None = None) -> Any:
    """Returns the response as JSON."""
    return json.loads(request(address, content))
