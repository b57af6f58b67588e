from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.networks.utils import one_hot

from tskd_monai.training import validation_pictures
from tskd_monai.training.validation_pictures import ValidationPictures, compare_slice, fullest_slice


def label_volume() -> torch.Tensor:
    """Return three classes (3, 8, 6, 4), most of both structures together on slice 2."""
    classes = torch.zeros(1, 8, 6, 4)
    classes[0, :4, :, 1] = 1
    classes[0, :3, :, 2] = 1
    classes[0, 7, 0, 2] = 2
    return one_hot(classes, 3, dim=0)


class Validator(Engine):
    """An evaluator of two cases, one per step, that returns the reference itself."""

    def __init__(self, cases: int = 2) -> None:
        super().__init__(self.step)
        self.cases = cases

    @staticmethod
    def step(engine: Engine, case: str) -> list[dict[str, Any]]:
        engine.state.batch = [{"image": torch.full((1, 8, 6, 4), 0.5), "case": case}]
        return [{"label": label_volume(), "pred": label_volume()}]

    def validate(self, epoch: int) -> None:
        self.state.max_epochs, self.state.epoch, self.state.iteration = max(epoch, 1), epoch - 1, 0
        self.run(["Jane Doe", "Joe Bloggs"][: self.cases])


def train(folder: Path, epochs: int, done: int = 0, **options: Any) -> None:
    """Resumes a training run after some epochs, validated at its start and after every second epoch."""
    trainer, validator = Engine(lambda engine, batch: None), Validator()

    @trainer.on(Events.STARTED)
    def resume() -> None:
        trainer.state.epoch = trainer.state.iteration = done

    ValidationPictures(folder, validator, **options).attach(trainer)

    @trainer.on(Events.STARTED | Events.EPOCH_COMPLETED(every=2))
    def validate() -> None:
        if trainer.state.epoch != done or not done:
            validator.validate(trainer.state.epoch)

    trainer.run([0], max_epochs=epochs)


def pictures(folder: Path) -> dict[str, list[int]]:
    """Returns the steps of each image that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: sorted({picture.step for picture in events.Images(name)}) for name in events.Tags()["images"]}


def test_the_same_slices_are_shown_after_every_validation(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, 4)
    found = pictures(tmp_path)
    assert set(found) == {"validation/slice_1", "validation/slice_2"}
    for steps in found.values():
        assert steps[-2:] == [2, 4] and steps[0] == 0


def test_no_case_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, 2)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"validation/slice_1" in written
    assert b"Doe" not in written and str(tmp_path).encode() not in written


def test_a_resumed_training_keeps_the_images_of_its_earlier_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, 4)
    train(tmp_path, 6, done=3)  # epoch 4 had been drawn, but not saved
    assert pictures(tmp_path)["validation/slice_1"][-3:] == [2, 4, 6]


def test_a_few_cases_are_enough(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, 2, number=1)
    assert set(pictures(tmp_path)) == {"validation/slice_1"}


def test_nothing_is_written_unless_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(tmp_path / "off", 2, enabled=False)
    assert not (tmp_path / "off").exists()
    with pytest.raises(ImportError, match="package tensorboard for --tensorboard True"):
        train(tmp_path, 1)


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_pictures.idist, "get_rank", lambda: 1)
    train(tmp_path / "second", 2)
    assert not (tmp_path / "second").exists()


def test_image_reference_and_prediction_are_side_by_side() -> None:
    image, label = torch.full((1, 8, 6, 4), 0.25), label_volume()
    nothing = one_hot(torch.zeros(1, 8, 6, 4), 3, dim=0)
    picture = compare_slice(image, label, nothing)
    assert picture.shape == (3, 8, 18) and picture.min() >= 0 and picture.max() <= 1
    bare, reference, prediction = np.split(picture, 3, axis=2)
    np.testing.assert_allclose(bare, 0.25)
    np.testing.assert_allclose(prediction, bare, atol=1e-6)  # background has no colour
    coloured = np.abs(reference - bare).max(axis=0) > 0.01
    np.testing.assert_array_equal(coloured, label[1:, :, :, 2].any(dim=0).numpy())
    assert not np.allclose(reference[:, 0, 0], reference[:, 7, 0])  # a different one for each class


def test_colour_images_keep_their_colours() -> None:
    image = torch.rand(3, 8, 6, 1)
    nothing = one_hot(torch.zeros(1, 8, 6, 1), 2, dim=0)
    np.testing.assert_allclose(compare_slice(image, nothing, nothing)[:, :, :6], image[..., 0], atol=1e-6)


def test_the_fullest_slice_counts_small_structures_like_large_ones() -> None:
    assert fullest_slice(label_volume()) == 2
    assert fullest_slice(one_hot(torch.zeros(1, 4, 4, 5), 3, dim=0)) == 2


def test_a_word_is_no_switch(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Expected --tensorboard True or False, found the word 'true'"):
        ValidationPictures(tmp_path, Validator(), "true")  # type: ignore[arg-type]
