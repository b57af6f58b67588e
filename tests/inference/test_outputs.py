from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, SaveImaged
from PIL import Image

from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.inference.label_map_inferer import LabelMapInferer
from tskd_monai.inference.outputs import WriterThread, postprocessing, save_segmentation
from tskd_monai.transforms.pipelines import preprocessing

MakeTask = Callable[..., Task]
WriteNifti = Callable[..., Path]
SHAPE = (21, 26, 7)
COS, SIN = math.cos(0.3), math.sin(0.3)
OBLIQUE = np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, COS, -SIN], [0, SIN, COS]])
GRIDS = [
    ("RAS", (1.0, 1.0, 4.0), None),
    ("LPS", (1.3, 1.7, 6.0), None),
    ("SPR", (1.1, 2.0, 1.5), None),
    ("AIL", (1.5, 1.2, 3.0), None),
    ("RAS", (1.25, 1.4, 5.0), OBLIQUE),
    ("PSL", (1.25, 1.4, 5.0), OBLIQUE),
]


class IntensityNetwork(torch.nn.Module):
    """A perfect network where intensity encodes the class: 0, 1/2 and 1 for three of them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.levels = torch.linspace(0, 1, num_classes).reshape(1, -1, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -(images[:, :1] - self.levels).abs()


def label_map(seed: int = 0) -> np.ndarray:
    """Return single voxels, lines and blocks of the values 0, 1 and 4."""
    return np.random.default_rng(seed).choice(np.array([0, 1, 4], np.uint8), SHAPE, p=[0.6, 0.2, 0.2])


def segment(task: Task, image: Path, output_dir: Path) -> None:
    """Run inference as the bundle does, with the perfect network."""
    transform = preprocessing(task)
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": str(image), "name": "case.7"}], transform), batch_size=1),
        network=IntensityNetwork(task.num_classes),
        inferer=LabelMapInferer(task),
        postprocessing=Compose([postprocessing(task), save_segmentation(task, output_dir)]),
    ).run()


class ClassNetwork(torch.nn.Module):
    """A perfect network for slices that hold classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(images[:, 0].long(), self.num_classes).movedim(-1, 1).float()


def from_classes(task: Task, image: Path, label: Path, upsampling: str = "nearest") -> MetaTensor:
    """Returns the label map computed from the label itself as the network's classes."""
    transform = preprocessing(task)
    classes = preprocessing(task, ("image", "label"))({"image": image, "label": label})["label"].as_tensor()
    (item,) = Dataset([{"image": image}], transform)
    batch = next(iter(DataLoader([item], batch_size=1)))
    shown = MetaTensor(classes[None].float(), meta=batch["image"].meta)
    shown.is_batch = True
    batch["pred"] = LabelMapInferer(task, upsampling=upsampling)(shown, ClassNetwork(task.num_classes))
    return postprocessing(task)(decollate_batch(batch)[0])["pred"]


@pytest.mark.parametrize(("axcodes", "spacing", "rotation"), GRIDS)
@pytest.mark.parametrize("view", ["PLS", "SLA"])
def test_perfect_logits_come_back_as_the_label(
    make_task: MakeTask,
    write_nifti: WriteNifti,
    axcodes: str,
    spacing: tuple[float, float, float],
    rotation: np.ndarray | None,
    view: str,
) -> None:
    # A grid at least as fine as the image's own loses no voxel.
    task = make_task(pixdim=(0.9, 0.8), axcodes=view)
    grid = {"spacing": spacing, "axcodes": axcodes, "rotation": rotation}
    label = write_nifti("label.nii.gz", label_map(), **grid)
    image = write_nifti("image.nii.gz", np.random.default_rng(1).random(SHAPE).astype(np.float32), **grid)
    found = from_classes(task, image, label)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found[0], np.asarray(nib.load(label).dataobj))
    np.testing.assert_allclose(found.affine, nib.load(label).affine, atol=1e-4)


@pytest.mark.parametrize(("axcodes", "spacing", "rotation"), GRIDS)
def test_written_file_is_the_label_on_the_inputs_grid(
    make_task: MakeTask,
    write_nifti: WriteNifti,
    tmp_path: Path,
    axcodes: str,
    spacing: tuple[float, float, float],
    rotation: np.ndarray | None,
) -> None:
    grid = {"spacing": spacing, "axcodes": axcodes, "rotation": rotation}
    image = write_nifti("image.nii.gz", np.array([0, 200, 0, 0, 400], np.int16)[label_map()], **grid)
    label = write_nifti("label.nii.gz", label_map(), **grid)
    # The image's own resolution, so that intensities stay those of a class; windows smaller than the slices.
    sizes = nib.affines.voxel_sizes(nib.as_closest_canonical(nib.load(image)).affine)
    task = make_task(
        image_size=(16, 16), pixdim=(float(sizes[1]), float(sizes[0])), intensity=Intensity("hu_window", 0, 400)
    )
    segment(task, image, tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "case.7_seg.nii.gz"
    written, expected = nib.load(path), nib.load(label)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_array_equal(written.affine, expected.affine)


def test_only_the_largest_component_of_named_labels_is_kept(make_task: MakeTask, write_nifti: WriteNifti) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[2:8, 2:8, 2:5] = 4
    array[15:17, 2:4, 2:4] = 4
    array[2:8, 15:20, 2:5] = 1
    array[15:17, 15:17, 2:4] = 1
    expected = array.copy()
    expected[15:17, 2:4, 2:4] = 0
    image, label = write_nifti("image.nii.gz", array.astype(np.int16)), write_nifti("label.nii.gz", array)
    found = from_classes(make_task(keep_largest_component=(4,)), image, label)
    np.testing.assert_array_equal(found[0], expected)
    expected[15:17, 15:17, 2:4] = 0
    both = from_classes(make_task(keep_largest_component=(1, 4)), image, label)
    np.testing.assert_array_equal(both[0], expected)
    np.testing.assert_array_equal(from_classes(make_task(), image, label)[0], array)


def test_label_values_beyond_a_byte_come_back(make_task: MakeTask, write_nifti: WriteNifti) -> None:
    labels = (Label(0, "background"), Label(300, "liver"), Label(4, "spleen"))
    array = np.random.default_rng(0).choice(np.array([0, 300, 4], np.int16), SHAPE)
    image, label = write_nifti("image.nii.gz", array), write_nifti("label.nii.gz", array)
    np.testing.assert_array_equal(from_classes(make_task(labels=labels), image, label)[0], array)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_file_gives_a_png_of_its_size(make_task: MakeTask, tmp_path: Path, channels: int) -> None:
    mask = (np.random.default_rng(0).random((30, 50)) < 0.3).astype(np.uint8) * 255
    Image.fromarray(mask if channels == 1 else np.repeat(mask[..., None], 3, axis=2)).save(tmp_path / "eye.png")
    task = make_task(
        labels=(Label(0, "background"), Label(255, "vessel")),
        channels=channels,
        axcodes=None,
        intensity=Intensity("rgb", 0, 255),
    )
    segment(task, tmp_path / "eye.png", tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "case.7_seg.png"
    with Image.open(path) as written:
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), mask)


def test_label_that_the_task_lacks_cannot_be_kept(make_task: MakeTask) -> None:
    with pytest.raises(ValueError, match=r"expected values among \[1, 4\] in `keep_largest_component`, found \(2,\)"):
        postprocessing(make_task(keep_largest_component=(2,)))


def item(name: str) -> dict[str, MetaTensor]:
    meta = {"original_affine": np.eye(4), "spatial_shape": np.array([4, 5, 6]), "output_name": name}
    return {"pred": MetaTensor(torch.ones(1, 4, 5, 6, dtype=torch.uint8), affine=np.eye(4), meta=meta)}


def fail() -> None:
    raise OSError("No space left on device")


def test_run_ends_when_all_is_written(make_task: Callable[..., Task], tmp_path: Path) -> None:
    thread = WriterThread()
    save = save_segmentation(make_task(), tmp_path, thread, compression_level=9)
    assert isinstance(save, SaveImaged)  # MONAI Label drops it by this type
    engine = Engine(lambda engine, name: save(item(name)))
    thread.attach(engine)
    engine.run(["a", "b", "c"], max_epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_seg.nii.gz", "b_seg.nii.gz", "c_seg.nii.gz"]
    assert np.asarray(nib.load(tmp_path / "c_seg.nii.gz").dataobj).all()


def test_an_unknown_format_is_refused_before_anything_is_segmented(
    make_task: Callable[..., Task], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Expected --output_format nifti, nrrd, same, found 'mha'"):
        save_segmentation(make_task(), tmp_path, output_format="mha")


def test_writing_continues_in_the_background_at_most_two_at_a_time() -> None:
    thread, gate = WriterThread(), threading.Event()
    done: list[int] = []
    for number in range(2):
        thread.submit(lambda number=number: (gate.wait(30), done.append(number)))  # type: ignore[misc]
    assert done == []
    gate.set()
    thread.submit(lambda: done.append(2))
    assert done[0] == 0
    thread.finish()
    assert done == [0, 1, 2]


def test_failed_write_fails_the_run(caplog: pytest.LogCaptureFixture) -> None:
    thread = WriterThread()
    engine = Engine(lambda engine, batch: thread.submit(fail))
    thread.attach(engine)
    with pytest.raises(OSError, match="No space left on device"):
        engine.run([0], max_epochs=1)
    assert "Writing failed (OSError)" in caplog.text


def test_a_later_write_can_take_the_failure_of_an_earlier_one() -> None:
    thread = WriterThread()
    taken: list[Exception | None] = []
    for write in (fail, lambda: taken.append(thread.take_failure()), lambda: taken.append(thread.take_failure())):
        thread.submit(write)
    thread.finish()
    assert isinstance(taken[0], OSError) and taken[1] is None


def test_run_that_fails_elsewhere_raises_its_own_error() -> None:
    def step(engine: Engine, batch: int) -> None:
        raise ValueError("damaged")

    engine = Engine(step)
    WriterThread().attach(engine)
    with pytest.raises(ValueError, match="damaged"):
        engine.run([0], max_epochs=1)
