from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.bundle.zoo.vendored_code import (
    extras_named,
    imports_of,
    needed_modules,
    outside_packages,
    rewritten,
    source_of,
    vendor,
)

EXTRAS = {"dicom": "highdicom==0.28.2"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of five modules: `losses.b` is imported indirectly and `losses.unused` not at all."""
    files = {
        "__init__.py": '__version__ = "1"\n',
        "losses/__init__.py": '"""Losses."""\n\nfrom tskd_monai.former_names import find\n\n__getattr__ = find\n',
        "former_names.py": "import scipy\n\ndef find(name):\n    ...\n",
        "losses/a.py": "import numpy\n\ndef f():\n    from tskd_monai.losses.b import g\n    return g\n",
        "losses/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tskd_monai.losses import unused\n"
        "def g():\n    import highdicom\n    raise ImportError(\"pip install 'tskd-monai[dicom]'\")\n"
        'TEMPLATE = "template.html"\n',
        "losses/unused.py": "import scipy\n",
        "losses/template.html": "<p>$text</p>",
        "losses/other.html": "",
    }
    for name, text in files.items():
        (tmp_path / "tskd_monai" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tskd_monai" / name).write_text(text, encoding="utf-8")
    return tmp_path / "tskd_monai"


def names(package: Path, modules: list[Path]) -> list[str]:
    return [path.relative_to(package).as_posix() for path in modules]


def test_modules_are_reached_through_configs_and_imports_and_no_others(package: Path) -> None:
    modules = needed_modules(package, ["_target_: tskd_monai.losses.a.f"])
    assert names(package, modules) == ["losses/a.py", "losses/b.py"]
    assert outside_packages(modules).at_once == {"numpy"}
    assert outside_packages(modules).later == {"highdicom"}
    assert extras_named(modules) == {"dicom"}


def test_what_only_type_checkers_see_is_no_import() -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import itk\n"
    source = guarded + "try:\n    import peft\nexcept ImportError:\n    peft = None\n"
    assert imports_of(source).at_once == {"typing.TYPE_CHECKING"}
    assert imports_of(source).later == {"peft"}


def test_vendored_modules_bring_their_packages_and_new_names(package: Path, tmp_path: Path) -> None:
    vendor(package, needed_modules(package, ["$tskd_monai.losses.a.f()"]), tmp_path / "bundle", EXTRAS)
    written = sorted(path for path in (tmp_path / "bundle").rglob("*.*") if path.is_file())
    assert names(tmp_path / "bundle" / "scripts", written) == [
        "__init__.py",
        "losses/__init__.py",
        "losses/a.py",
        "losses/b.py",
        "losses/template.html",
    ]
    code = "".join(path.read_text() for path in written)
    assert "from scripts.losses.b import g" in code and "tskd_monai" not in code
    assert 'ImportError("pip install highdicom==0.28.2")' in code


def test_packages_keep_their_words_and_constants_and_find_no_former_names(package: Path, tmp_path: Path) -> None:
    vendor(package, needed_modules(package, ["tskd_monai.losses.a.f"]), tmp_path, EXTRAS)
    assert (tmp_path / "scripts" / "losses" / "__init__.py").read_text() == '"""Losses."""\n'
    assert (tmp_path / "scripts" / "__init__.py").read_text() == '__version__ = "1"\n'


def test_modules_find_no_former_names(tmp_path: Path) -> None:
    module = tmp_path / "a.py"
    module.write_text(
        "import re\nfrom tskd_monai.former_names import former_components\nfrom tskd_monai.losses.b import g\n\n\n"
        "def f():\n    ...\n\n\n__getattr__ = former_components(__name__)\n"
    )
    expected = "import re\nfrom tskd_monai.losses.b import g\n\n\ndef f():\n    ...\n"
    assert source_of(module) == expected


def test_files_of_bundles_are_looked_for_in_the_bundle() -> None:
    assert rewritten('"bundles/teacher_lora/models/w.pt"', EXTRAS) == '"models/w.pt"'
    assert rewritten("tskd_monai_other tskd_monai.data", EXTRAS) == "tskd_monai_other scripts.data"


def test_name_of_no_module_is_refused(package: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected a module of tskd_monai for tskd_monai\.nowhere\.thing, found none"):
        needed_modules(package, ["_target_: tskd_monai.nowhere.thing"])
