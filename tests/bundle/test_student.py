from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from tests.support.paths import ROOT
from tskd_monai.bundle import student as student_bundle
from tskd_monai.bundle.student import (
    finish_student,
    load_student_weights,
    start_from,
    write_student_bundle,
)
from tskd_monai.data.task import Intensity, Label, Task, load_task
from tskd_monai.files.checksum import file_sha256
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.students import NETWORK_OF_TASK, build_student, network_definition, student_size
from tskd_monai.training.checkpoint import BestCheckpoint
from tskd_monai.training.history import TrainingHistory

MakeTask = Callable[..., Task]
TEMPLATE = ROOT / "bundles" / "segmentation"
SMALL, BASE = "compact_unet_small", "compact_unet_base"


def student_weights(task: Task, seed: int = 0, name: str = SMALL) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_student(name, task.channels, task.num_classes, task.image_size).state_dict()


def same(first: Any, second: Any) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_task: MakeTask) -> Path:
    folder = tmp_path_factory.mktemp("student")
    write_student_bundle(TEMPLATE, folder, make_task(), BASE, student_weights(make_task(), name=BASE))
    return folder


def test_bundle_has_the_files_of_its_template_and_weights_of_its_own(bundle: Path) -> None:
    found = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    weights_and_task = {"models/model.pt", "configs/task.json", "configs/metadata.json"}
    assert found == {*student_bundle.TEMPLATE_FILES, *weights_and_task}
    shipped = {str(path.relative_to(TEMPLATE)) for path in TEMPLATE.rglob("*") if path.is_file()}
    about_all_bundles = {"docs/tutorial.ipynb", "docs/which_option.md", "docs/datasets.md", "docs/monai_label.md"}
    about_the_shipped_student = {"docs/model_card.md", "docs/data_license.txt", "docs/quality.md"}
    of_the_project = about_all_bundles | about_the_shipped_student
    assert {name for name in shipped if not name.startswith("models/")} - of_the_project <= found


def test_configs_are_the_templates_with_the_student(bundle: Path) -> None:
    for name in ("inference.json", "train.json"):
        network = {"student": BASE, "network_def": network_definition(BASE, 1, 3, (32, 48))}
        assert read(bundle / "configs" / name) == {**read(TEMPLATE / "configs" / name), **network}
    for name in ("LICENSE", "configs/evaluate.json", "configs/logging.conf"):
        assert (bundle / name).read_bytes() == (TEMPLATE / name).read_bytes()


def test_task_travels_with_the_student(bundle: Path, make_task: MakeTask) -> None:
    assert load_task(bundle / "configs" / "task.json") == make_task()


def test_weights_load_strictly_into_the_network_of_its_config(bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def")
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert network.load_state_dict(weights, strict=True).missing_keys == []
    assert network(torch.zeros(1, 1, 32, 48)).shape == (1, 3, 32, 48)


@pytest.mark.parametrize(("student", "monai_name"), [(SMALL, "UNet"), ("planned_unet", "DynUNet"), ("vit_tiny", None)])
def test_network_is_one_of_monais_where_the_student_is(
    student: str, monai_name: str | None, tmp_path: Path, make_task: MakeTask
) -> None:
    weights = student_weights(make_task(), name=student)
    write_student_bundle(TEMPLATE, tmp_path, make_task(), student, weights)
    for name in ("inference.json", "train.json"):
        definition = read(tmp_path / "configs" / name)["network_def"]
        if monai_name is None:
            assert definition == NETWORK_OF_TASK
            continue
        assert not any(str(value).startswith(("$", "@")) for value in definition.values())
        network = ConfigParser(definition).get_parsed_content()
        assert type(network).__name__ == definition["_target_"] == monai_name
        network.load_state_dict(weights, strict=True)
        images = torch.rand(1, 1, 32, 48)
        expected = student_size(student).build(1, 3, (32, 48))
        expected.load_state_dict(weights)
        assert torch.equal(network.eval()(images), expected.eval()(images))


def test_metadata_states_the_tasks_classes(bundle: Path) -> None:
    metadata = read(bundle / "configs" / "metadata.json")
    formats = metadata["network_data_format"]
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "liver", "2": "spleen"}
    assert formats["outputs"]["pred"]["num_channels"] == 3
    assert formats["inputs"]["image"]["channel_def"] == {"0": "image"}
    assert formats["inputs"]["image"]["spatial_shape"] == formats["outputs"]["pred"]["spatial_shape"] == [32, 48]
    assert (formats["inputs"]["image"]["num_channels"], formats["inputs"]["image"]["modality"]) == (1, "MR")
    assert metadata["task"] == "Segmentation of liver, spleen"
    assert metadata["name"].startswith("tiny: ")
    template = read(TEMPLATE / "configs" / "metadata.json")
    kept = set(template) - {"name", "task", "description", "network_data_format", "authors", "copyright"}
    assert {key: metadata[key] for key in kept} == {key: template[key] for key in kept}


def test_student_of_a_user_does_not_name_the_projects_team(bundle: Path) -> None:
    metadata, template = (read(folder / "configs" / "metadata.json") for folder in (bundle, TEMPLATE))
    for key in ("authors", "copyright"):
        assert "team" in template[key] and metadata[key] == "Not stated by those who trained it."


@pytest.mark.parametrize(
    ("changes", "modality", "channels"),
    [
        ({"intensity": Intensity("hu_window", -160, 240)}, "CT", {"0": "image"}),
        (
            {"intensity": Intensity("rgb", 0, 255), "channels": 3, "axcodes": None},
            "RGB",
            {"0": "red", "1": "green", "2": "blue"},
        ),
    ],
)
def test_metadata_states_the_tasks_images(
    tmp_path: Path, make_task: MakeTask, changes: dict[str, Any], modality: str, channels: dict[str, str]
) -> None:
    task = make_task(labels=(Label(0, "background"), Label(255, "vessel")), **changes)
    write_student_bundle(TEMPLATE, tmp_path, task, SMALL, student_weights(task))
    formats = read(tmp_path / "configs" / "metadata.json")["network_data_format"]
    image = formats["inputs"]["image"]
    assert (image["modality"], image["channel_def"], image["num_channels"]) == (modality, channels, len(channels))
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "vessel"}


def test_template_is_left_as_it_was(tmp_path: Path, make_task: MakeTask) -> None:
    template = tmp_path / "template"
    shutil.copytree(TEMPLATE, template)
    before = {path: file_sha256(path) for path in template.rglob("*") if path.is_file()}
    write_student_bundle(template, tmp_path / "out", make_task(), SMALL, student_weights(make_task()))
    assert {path: file_sha256(path) for path in template.rglob("*") if path.is_file()} == before


def test_code_of_an_exported_template_goes_along(tmp_path: Path, make_task: MakeTask) -> None:
    shutil.copytree(TEMPLATE, tmp_path / "template")
    (tmp_path / "template" / "scripts" / "data").mkdir(parents=True)
    (tmp_path / "template" / "scripts" / "data" / "task.py").write_text("FORMAT = 1\n")
    for _ in range(2):
        write_student_bundle(tmp_path / "template", tmp_path / "new", make_task(), SMALL, student_weights(make_task()))
    assert (tmp_path / "new" / "scripts" / "data" / "task.py").read_text() == "FORMAT = 1\n"


def test_incomplete_template_is_refused_before_any_weights(tmp_path: Path, make_task: MakeTask) -> None:
    shutil.copytree(TEMPLATE, tmp_path / "template")
    (tmp_path / "template" / "configs" / "train.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"Expected configs/train\.json in the segmentation bundle .*--template"
    ):
        write_student_bundle(tmp_path / "template", tmp_path / "out", make_task(), SMALL, student_weights(make_task()))
    assert not (tmp_path / "out" / "models" / "model.pt").exists()


def test_student_starts_from_a_bundle(bundle: Path, make_task: MakeTask) -> None:
    network = build_student(BASE, 1, 3, (32, 48))
    assert start_from(network, bundle, make_task()) is network
    assert same(network.state_dict(), student_weights(make_task(), name=BASE))


def test_without_a_bundle_the_student_starts_as_it_is(make_task: MakeTask) -> None:
    network = build_student(SMALL, 1, 3, (32, 48))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert load_student_weights(None, make_task()) is None
    assert same(start_from(network, None, make_task()).state_dict(), before)


def test_a_vit_starts_from_published_weights(vit_tiny_weights: Path, make_task: MakeTask) -> None:
    network = build_student("vit_tiny", 1, 3, (32, 48))
    assert start_from(network, None, make_task(), vit_tiny_weights) is network
    published = build_encoder("vit_tiny_patch16", vit_tiny_weights, (32, 48))
    assert same(network.encoder.state_dict(), published.state_dict())


def test_published_weights_and_a_bundle_contradict_each_other(bundle: Path, make_task: MakeTask) -> None:
    with pytest.raises(ValueError, match="--initial_student or --encoder_weights, found both .*leave out one"):
        start_from(build_student(BASE, 1, 3, (32, 48)), bundle, make_task(), "vit.safetensors")


def test_bundle_of_another_task_is_refused(bundle: Path, make_task: MakeTask) -> None:
    other = make_task(pixdim=(2.0, 2.0))
    with pytest.raises(
        ValueError, match=rf"student bundle {bundle.name} was made for another task: .*{other.hash[:12]}"
    ):
        start_from(build_student(BASE, 1, 3, (32, 48)), bundle, other)


def test_bundle_without_weights_is_refused(bundle: Path, tmp_path: Path, make_task: MakeTask) -> None:
    shutil.copytree(bundle / "configs", tmp_path / "configs")
    with pytest.raises(FileNotFoundError, match=r"Expected weights at .*model\.pt, found none"):
        load_student_weights(tmp_path, make_task())


def finish(folder: Path, task: Task, validator: Any = None) -> tuple[torch.nn.Module, BestCheckpoint]:
    """Finishes a training run of four epochs whose second was the best."""
    network = build_student(SMALL, 1, 3, (32, 48))
    best = BestCheckpoint(folder / "best.pt", network)
    engine = Engine(lambda engine, batch: None)
    for epoch, metric in ((1, 0.5), (2, 0.75), (4, 0.25)):
        torch.nn.init.constant_(next(network.parameters()), epoch)
        engine.state.metrics, engine.state.epoch = {"val_mean_dice": metric}, epoch
        best(engine)
    history = TrainingHistory(folder / "history.jsonl", torch.optim.SGD(network.parameters(), lr=1.0))
    history.load_state_dict({"rows": [{"epoch": epoch, "seconds": 10.0 * epoch} for epoch in (1, 2, 3, 4)]})
    (folder / "datalist.json").write_text("{}")
    settings, inputs = {"seed": 3}, {"datalist": str(folder / "datalist.json")}
    finish_student(
        network, best, history, TEMPLATE, folder / "out", task, SMALL, "distillation", settings, inputs, validator
    )
    return network, best


def test_student_of_the_best_validation_is_written_with_its_record(tmp_path: Path, make_task: MakeTask) -> None:
    network, best = finish(tmp_path, make_task())
    weights = load_student_weights(tmp_path / "out", make_task())
    assert weights is not None
    assert set(next(iter(weights.values())).unique().tolist()) == {2.0}
    assert same(weights, torch.load(best.path, weights_only=True))
    assert same(weights, network.state_dict())
    record = read(tmp_path / "out" / "record.json")
    assert (record["stage"], record["settings"]) == ("distillation", {"seed": 3})
    assert record["inputs"] == {"datalist": file_sha256(tmp_path / "datalist.json")}
    assert record["results"] == {
        "val_mean_dice": 0.75,
        "best_epoch": 2,
        "seconds": 40.0,
        "seconds_per_epoch": 10.0,
        "parameters": sum(value.numel() for value in network.parameters()),
        "largest_component_of": [],
    }


def test_a_filter_that_lowers_the_dice_is_left_out_of_the_bundle(
    tmp_path: Path, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(keep_largest_component=(1, 4))
    monkeypatch.setattr(student_bundle, "harmful_filters", lambda network, validator, task: (4,))
    finish(tmp_path, task, validator=object())
    written = load_task(tmp_path / "out" / "configs" / "task.json")
    assert written.filtered == (1,) and written.hash == task.hash
    assert read(tmp_path / "out" / "record.json")["results"]["largest_component_of"] == ["liver"]
    assert load_student_weights(tmp_path / "out", task) is not None


def test_only_the_first_process_finishes(tmp_path: Path, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_bundle.idist, "get_rank", lambda: 1)
    finish(tmp_path, make_task())
    assert not (tmp_path / "out").exists()
