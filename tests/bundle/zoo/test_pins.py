from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.bundle.zoo.pins import load_pins

CONSTRAINTS = """# A comment
numpy==2.4.6; python_version >= "3.11"
numpy==2.2.6; python_version < "3.11"
monai==1.6.1
torch==2.13.0
Pillow==13.0.0
highdicom==0.28.2
itk-io==5.4.7
"""
SETUP = "[options.extras_require]\ndicom =\n    highdicom>=0.26\n    unpinned\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "constraints.txt").write_text(CONSTRAINTS)
    (tmp_path / "setup.cfg").write_text(SETUP)
    return tmp_path / "constraints.txt", tmp_path / "setup.cfg"


def test_pins_are_those_of_the_zoos_python(files: tuple[Path, Path]) -> None:
    pins = load_pins(*files)
    assert pins.core() == {"monai_version": "1.6.1", "pytorch_version": "2.13.0", "numpy_version": "2.2.6"}
    assert pins.extras == {"dicom": "highdicom==0.28.2"}


def test_imports_are_pinned_by_distribution(files: tuple[Path, Path], tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import json\nfrom PIL import Image\nimport torch\ndef f():\n    import highdicom\n")
    pins = load_pins(*files)
    assert pins.required([module]) == {"pillow": "13.0.0"}
    assert pins.optional([module]) == {"highdicom": "0.28.2"}


def test_a_distribution_without_files_of_its_own_is_pinned(files: tuple[Path, Path], tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def f():\n    import itk\n")
    assert load_pins(*files).optional([module]) == {"itk-io": "5.4.7"}


def test_import_without_a_pin_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import scipy\n")
    with pytest.raises(ValueError, match=r"Expected a pin for scipy in .*constraints.txt, found none; add its version"):
        load_pins(*files).required([module])


def test_open_version_is_refused(files: tuple[Path, Path]) -> None:
    files[0].write_text("numpy>=2\n")
    with pytest.raises(ValueError, match=r"Expected one exact version \(==\) in .*, found 'numpy>=2'"):
        load_pins(*files)
