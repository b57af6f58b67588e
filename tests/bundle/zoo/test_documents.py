"""An exported document names no script, link or image that the bundle does not have."""

from __future__ import annotations

import pytest

from tskd_monai.bundle.zoo.documents import exported_document

FILES = ("scripts/inference/engines.py", "configs/inference.json")
DOCUMENTS = ("usage.md", "inputs.md")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`tskd export` writes it.", "tskd-monai's `tskd export` writes it."),
        ("As `python scripts/benchmark/run.py a` does", "As tskd-monai's `python benchmark/run.py a` does"),
        ("See `tests/networks/test_lora.py`.", "See tskd-monai's `tests/networks/test_lora.py`."),
        ("See `scripts/inference/engines.py`.", "See `scripts/inference/engines.py`."),
        ("Run:\n\n```bash\ntskd export student\n```\n\nThen", "Run:\n\nThen"),
        ("Run:\n\n```bash\npython scripts/benchmark/run.py\n```\n\nThen", "Run:\n\nThen"),
        ("Run:\n\n    python scripts/benchmark/run.py\n\nThen", "Run:\n\nThen"),
        ("Run:\n\n    python -m monai.bundle run\n\nThen", "Run:\n\n    python -m monai.bundle run\n\nThen"),
        ("```bash\npython -m monai.bundle run\n```\n", "```bash\npython -m monai.bundle run\n```\n"),
        ("[the list](inputs.md), [part](usage.md#a)", "[the list](inputs.md), [part](usage.md#a)"),
        ("[measured\nthere](../../distillation/docs/README.md#x).", "measured\nthere."),
        ("[below](#train), [data](https://x.org/a)", "[below](#train), [data](https://x.org/a)"),
        ('<picture><img src="a.png"></picture>\n\nText ![b](b.png)', "Text "),
    ],
)
def test_what_the_bundle_lacks_is_not_named(text: str, expected: str) -> None:
    assert exported_document(text, FILES, DOCUMENTS) == expected
