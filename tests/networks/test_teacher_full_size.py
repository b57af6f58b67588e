"""SAM ViT-B at 512 pixels trains on a CPU in little memory; runs if TSKD_FULL_SIZE is set, in a few minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

MAX_GIGABYTES = 4.0
TRAIN = """
import json, resource, sys, time
import torch
from tests.support.paths import ROOT
from tskd_monai.networks.teacher_builder import build_teacher

decoder, checkpointing = sys.argv[1], sys.argv[2] == "checkpointing"
teacher = build_teacher(
    encoder="sam_vit_base", encoder_weights="random", image_size=512, num_classes=5, decoder=decoder, rank=8,
    gradient_checkpointing=checkpointing,
).train()
optimiser = torch.optim.AdamW([value for value in teacher.parameters() if value.requires_grad], lr=1e-3)
images, labels = torch.rand(1, 1, 512, 512), torch.randint(5, (1, 512, 512))
seconds = []
for _ in range(2):
    start = time.perf_counter()
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(teacher(images), labels).backward()
    optimiser.step()
    seconds.append(time.perf_counter() - start)
gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"decoder": decoder, "gigabytes": round(gigabytes, 2), "seconds": round(min(seconds), 1)}))
"""

pytestmark = pytest.mark.skipif("TSKD_FULL_SIZE" not in os.environ, reason="set TSKD_FULL_SIZE to run at full size")


def train(decoder: str, mode: str) -> dict[str, float]:
    command = [sys.executable, "-c", TRAIN, decoder, mode]
    root = ROOT
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=900).stdout
    sys.stdout.write(f"{mode}: {output}")
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("decoder", ["light", "sam"])
def test_a_step_of_training_fits_with_gradient_checkpointing(decoder):
    saved, plain = train(decoder, "checkpointing"), train(decoder, "plain")
    assert saved["gigabytes"] < MAX_GIGABYTES
    assert saved["gigabytes"] < plain["gigabytes"]
