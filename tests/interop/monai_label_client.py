"""A MONAI Label server started for a `with` block, and the REST calls of a viewer."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.orthanc import free_port
from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts" / "monai_label.sh"
START_SECONDS = 300
REQUEST_SECONDS = 600
TRAIN_SECONDS = 1800
LOG_TAIL = 3000


class ServerError(RuntimeError):
    """The server returned an error, did not start, or one of its tasks failed; the message is the server's."""


class LabelServer:
    """The REST calls that 3D Slicer and OHIF make.

    Args:
        address: address of the server, `http://host:port`.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def info(self) -> dict[str, Any]:
        """Returns the server's info: models, trainers, labels."""
        return dict(self._ask("GET", "/info/"))

    def datastore_status(self) -> dict[str, Any]:
        """Returns how many images there are, and how many have a finished label."""
        return dict(self._ask("GET", "/datastore/"))

    def datastore(self) -> dict[str, Any]:
        """Returns the images on the server's disk, and their labels."""
        return dict(self._ask("GET", "/datastore/", output="all"))

    def next_sample(self, strategy: str) -> dict[str, Any]:
        """Returns the image to label next, `id` and `path`; empty if there is none."""
        return dict(self._ask("POST", f"/activelearning/{strategy}", content=b"{}", content_type="application/json"))

    def infer(self, model: str, image: str, params: Mapping[str, Any] | None = None) -> bytes:
        """Returns the label map that a model predicts for an image, as a file's content."""
        body, content_type = _form({"params": json.dumps(params or {})})
        return self._request("POST", f"/infer/{model}", body, content_type, image=image, output="image")

    def infer_file(self, model: str, path: Path) -> bytes:
        """Returns the label map that a model predicts for an image that the server does not have."""
        body, content_type = _form({"params": "{}"}, {"file": path})
        return self._request("POST", f"/infer/{model}", body, content_type, output="image")

    def save_label(self, image: str, label: Path, info: Mapping[str, Any]) -> dict[str, Any]:
        """Saves a finished label of an image."""
        body, content_type = _form({"params": json.dumps(info)}, {"label": label})
        return dict(self._ask("PUT", "/datastore/label", body, content_type, image=image, tag="final"))

    def label(self, image: str) -> bytes:
        """Returns the finished label of an image, as a file's content."""
        return self._request("GET", "/datastore/label", label=image, tag="final")

    def train(self, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Trains in the background as viewers do, waits for the end and returns the task's last state.

        Raises:
            ServerError: if training fails or takes too long.
        """
        self._ask("POST", f"/train/{model}", json.dumps(params).encode(), "application/json")
        end = time.monotonic() + TRAIN_SECONDS
        while time.monotonic() < end:
            task = dict(self._ask("GET", "/train/"))
            if task["status"] == "DONE":
                return task
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                raise ServerError("\n".join(task.get("details", [str(task)])))
            time.sleep(1)
        raise ServerError(f"training took longer than {TRAIN_SECONDS} s")

    def _ask(self, method: str, path: str, content: bytes | None = None, content_type: str = "", **query: str) -> Any:
        return json.loads(self._request(method, path, content, content_type, **query))

    def _request(
        self, method: str, path: str, content: bytes | None = None, content_type: str = "", **query: str
    ) -> bytes:
        address = f"{self.address}{path}?{urllib.parse.urlencode(query)}"
        headers = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(address, data=content, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise ServerError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error


@contextmanager
def label_server(bundle: Path, studies: Path | str, log: Path, cache: Path) -> Iterator[LabelServer]:
    """Yields a server started by `monai_label.sh`, once it responds; stops it at the end.

    Args:
        bundle: bundle to serve.
        studies: folder or DICOMweb address.
        log: file for its output.
        cache: folder for series from a DICOMweb server.
    """
    with running_server(["bash", str(SCRIPT), str(bundle), str(studies)], log, cache) as server:
        yield server


@contextmanager
def running_server(command: Sequence[str], log: Path, cache: Path) -> Iterator[LabelServer]:
    """Yields a server started by a command, to which its port is added; arguments else as of `label_server`."""
    port = free_port()
    environment = {**os.environ, "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(cache)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            server = LabelServer(f"http://127.0.0.1:{port}")
            _wait_for(server, process, log)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(server: LabelServer, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerError(f"the server ended with exit code {process.returncode}:\n{log.read_text()[-LOG_TAIL:]}")
        try:
            server.info()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise ServerError(f"the server did not answer in {START_SECONDS} s:\n{log.read_text()[-LOG_TAIL:]}")


def _form(fields: Mapping[str, str], files: Mapping[str, Path] | None = None) -> tuple[bytes, str]:
    """Returns the body of a `multipart/form-data` request and its content type."""
    boundary = uuid.uuid4().hex
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()]
    for name, path in (files or {}).items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n'
        parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + path.read_bytes())
    body = b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
