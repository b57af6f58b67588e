from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import torch

from tests.support.fork_server import python_command
from tests.support.paths import ROOT


def check(*bundles: Path) -> subprocess.CompletedProcess[str]:
    command = [python_command(), "-m", "tskd_monai", "audit", *map(str, bundles)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )


def test_own_bundles_pass() -> None:
    bundles = sorted(path.parent.parent for path in (ROOT / "bundles").glob("*/configs/metadata.json"))
    done = check(*bundles)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == [f"{bundle.name}: 0 findings" for bundle in bundles]


def test_strange_bundle_is_listed_and_nothing_of_it_runs(tmp_path: Path) -> None:
    bundle, marker = tmp_path / "strange", tmp_path / "marker"
    (bundle / "models").mkdir(parents=True)
    (bundle / "run.json").write_text(json.dumps({"run": f"$open({str(marker)!r}, 'w')"}))
    torch.save({"a": check}, bundle / "models" / "model.pt")
    done = check(bundle)
    assert done.returncode == 1 and not marker.exists()
    assert "strange/run.json run: expression" in done.stdout
    assert "strange/models/model.pt: weights" in done.stdout
    (tmp_path / "empty").mkdir()
    for name, message in (("gone", "Expected the folder of a bundle at "), ("empty", "found no file")):
        done = check(tmp_path / name)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
