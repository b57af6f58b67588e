"""Finding, reading and strictly loading weights."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from tskd_monai.networks.weights_file import load_strictly, locate_weights, read_weights, write_weights


def test_written_weights_are_read_again_whatever_their_layout(tmp_path):
    state = {"transposed": torch.rand(2, 3).t(), "trained": nn.Parameter(torch.rand(3))}
    write_weights(tmp_path / "new" / "w.safetensors", state)
    found = read_weights(tmp_path / "new" / "w.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_tensors_survive_either_format(tmp_path, name):
    state = {"weight": torch.rand(2, 3)}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    assert torch.equal(read_weights(tmp_path / name)["weight"], state["weight"])


@pytest.mark.parametrize("key", ["model", "teacher"])
def test_the_state_dict_in_a_checkpoint_is_read(tmp_path, key):
    torch.save({key: {"weight": torch.ones(2)}, "epoch": 3}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").keys() == {"weight"}


def test_a_checkpoint_with_two_state_dicts_is_refused(tmp_path):
    both = {"weight": torch.ones(2)}
    torch.save({"model": both, "teacher": both}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"found 'model' with a dict"):
        read_weights(tmp_path / "w.pth")


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save([torch.rand(1)], tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"mapping from names to tensors in .*w\.pth, found list"):
        read_weights(tmp_path / "w.pth")


def test_a_whole_checkpoint_is_refused_naming_the_entry(tmp_path):
    torch.save({"weight": torch.rand(1), "model": {"a": torch.rand(1)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth, found 'model' with a dict; save only the model's state dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("kept", [5, 1000])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
def test_a_file_cut_short_is_refused_by_name(tmp_path, name, kept):
    state, path = {"weight": torch.rand(40, 40)}, tmp_path / name
    if name == "w.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "w.pth")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"weights in .*{name}, found a file that is damaged.*download it again"):
        read_weights(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_web_page_instead_of_weights_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(ValueError, match=rf"weights in .*{name}, found a web page, as left by a failed download"):
        read_weights(tmp_path / name)


def test_a_folder_means_its_safetensors_file(tmp_path):
    save_file({"a": torch.rand(1)}, tmp_path / "model.safetensors")
    assert locate_weights(tmp_path) == tmp_path / "model.safetensors"


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected model\.safetensors or pytorch_model\.bin"):
        locate_weights(tmp_path)


def test_a_hub_id_is_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(repository: str, name: str, local_files_only: bool) -> str:
        asked.append((repository, name))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert locate_weights("facebook/sam-vit-base") == tmp_path / "model.safetensors"
    assert asked == [("facebook/sam-vit-base", "model.safetensors")]


def test_a_published_file_is_taken_where_a_repository_or_folder_has_no_other(tmp_path, monkeypatch):
    def download(repository: str, name: str, local_files_only: bool) -> str:
        if name != "MedSAM2_latest.pt":
            raise EntryNotFoundError("404")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert locate_weights("wanglab/MedSAM2", ("MedSAM2_latest.pt",)) == tmp_path / "MedSAM2_latest.pt"
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin in hub repository wanglab/MedSAM2, found none"):
        locate_weights("wanglab/MedSAM2")
    (tmp_path / "MedSAM2_latest.pt").touch()
    assert locate_weights(tmp_path, ("MedSAM2_latest.pt",)) == tmp_path / "MedSAM2_latest.pt"


def test_without_network_the_cache_is_searched_for_every_name(tmp_path, monkeypatch):
    asked = []

    def download(repository: str, name: str, local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        if name == "pytorch_model.bin":
            return str(tmp_path / name)
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert locate_weights("wanglab/medsam-vit-base") == tmp_path / "pytorch_model.bin"
    assert asked == [("model.safetensors", False), ("pytorch_model.bin", True)]


def test_a_hub_that_cannot_be_reached_is_reported(monkeypatch):
    def download(repository: str, name: str, local_files_only: bool) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(FileNotFoundError, match=r"facebook/sam-vit-base .* could not be fetched .*no network"):
        locate_weights("facebook/sam-vit-base")


def test_a_missing_file_is_not_looked_for_on_the_hub():
    with pytest.raises(FileNotFoundError, match=r"models/sam\.pth not found"):
        locate_weights("models/sam.pth")


def test_strict_loading_names_every_kind_of_misfit():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = module.state_dict()
    state["0.weight"] = torch.zeros(3, 5)
    state["extra"] = state.pop("1.bias")
    with pytest.raises(ValueError, match=r"missing 1\.bias; unexpected extra; wrong shape 0\.weight \(expected \(3, 2"):
        load_strictly(module, state, "w.pth")


def test_half_precision_is_loaded_as_float():
    module = nn.Linear(2, 3)
    load_strictly(module, {name: torch.ones_like(v).half() for name, v in module.state_dict().items()}, "w.pth")
    assert module.weight.dtype == torch.float32
    assert module.weight.sum() == 6


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
def test_no_changed_byte_gives_another_error_than_ours(tmp_path, name):
    state, path = {"weight": torch.rand(2, 2), "steps": torch.tensor(3)}, tmp_path / name
    if name == "w.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "w.pth")
    whole, refused = path.read_bytes(), 0
    for position in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        error = error_of(read_weights, path)
        refused += error is not None
        assert error is None or (type(error) is ValueError and name in str(error))
    assert refused > 20


def error_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None


def test_entries_without_a_name_are_refused(tmp_path):
    torch.save({3: torch.rand(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth, found 3 with a Tensor"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected weights at .*none\.pt, found none"):
        read_weights(tmp_path / "none.pt")
