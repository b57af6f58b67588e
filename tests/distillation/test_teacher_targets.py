from __future__ import annotations

import hashlib

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from torch import nn

from tskd_monai.distillation.teacher_targets import TeacherTargets
from tskd_monai.losses.task_specific_distillation import TaskSpecificDistillationLoss
from tskd_monai.networks.features import FeatureProjection
from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.sam_encoder import SamArchitecture, SamEncoder
from tskd_monai.networks.students import build_student, student_size
from tskd_monai.networks.teacher import VfmSegmenter

SIZE = 64


def make_teacher(dropout: float = 0.0) -> VfmSegmenter:
    """Returns a tiny teacher in training mode, optionally with dropout before its decoder's last layer."""
    torch.manual_seed(0)
    architecture = SamArchitecture(32, 4, 2, global_layers=(1, 3), window_size=3, embed_dim=64)
    encoder = SamEncoder(architecture, SIZE, (0.5,) * 3, (0.5,) * 3)
    encoder.initialise_randomly()
    teacher = VfmSegmenter(encoder, LightDecoder(encoder.feature_channels, SIZE, 3))
    if dropout:
        teacher.decoder.register_forward_hook(
            lambda module, inputs, output: nn.functional.dropout(output, dropout, module.training)
        )
    return teacher.train()


def fingerprint(module: nn.Module) -> str:
    """Return a hash of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().numpy().tobytes())
    return digest.hexdigest()


def train(teacher: VfmSegmenter, steps: int = 3) -> FeatureProjection:
    """Distils for a few steps with the stock trainer; returns the student, whose weights have changed."""
    size = student_size("compact_unet_small")
    student = FeatureProjection(
        build_student("compact_unet_small", 1, 3, (SIZE, SIZE)),
        size.feature_layer,
        size.feature_channels,
        teacher.encoder.embed_dim,
    )
    before = fingerprint(student)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.rand(2, 1, SIZE, SIZE)} for _ in range(steps)],
        network=student,
        # An optimiser that was given all parameters.
        optimizer=torch.optim.AdamW([*student.parameters(), *teacher.parameters()], lr=1e-2, weight_decay=0.1),
        loss_function=TaskSpecificDistillationLoss(),
        inferer=SimpleInferer(),
        prepare_batch=TeacherTargets(teacher),
        decollate=False,
    )
    modes: list[bool] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: modes.append(teacher.training))
    trainer.run()
    assert fingerprint(student) != before
    assert modes == [False] * steps
    return student


def test_targets_have_the_teachers_shapes() -> None:
    images = torch.rand(2, 1, SIZE, SIZE)
    inputs, targets = TeacherTargets(make_teacher())({"image": images}, device="cpu")
    assert torch.equal(inputs, images)
    assert set(targets) == {"logits", "features"}
    assert targets["logits"].shape == (2, 3, SIZE, SIZE)
    assert targets["features"].shape == (2, 64, SIZE // 16, SIZE // 16)


def test_teacher_never_changes() -> None:
    teacher = make_teacher()
    before = fingerprint(teacher)
    train(teacher)
    assert fingerprint(teacher) == before
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_teacher_is_frozen_and_in_eval_mode() -> None:
    teacher = make_teacher()
    TeacherTargets(teacher)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())


def test_targets_are_those_of_the_very_image_and_carry_no_gradient() -> None:
    teacher = make_teacher(dropout=0.5)
    prepare = TeacherTargets(teacher)
    images = torch.rand(2, 1, SIZE, SIZE, requires_grad=True)
    _, targets = prepare({"image": images})
    _, again = prepare({"image": images})
    assert not targets["logits"].requires_grad and not targets["features"].requires_grad
    assert torch.equal(targets["logits"], again["logits"])
    logits, embeddings = teacher.forward_with_embeddings(images)
    torch.testing.assert_close(targets["logits"], logits)
    torch.testing.assert_close(targets["features"], embeddings)
    _, flipped = prepare({"image": images.flip(-1)})
    assert not torch.equal(targets["logits"], flipped["logits"])


def test_labels_are_not_needed() -> None:
    batch = {"image": torch.rand(1, 1, SIZE, SIZE)}
    _, bare = TeacherTargets(make_teacher())(batch)
    _, labelled = TeacherTargets(make_teacher())({**batch, "label": torch.ones(1, 1, SIZE, SIZE)})
    assert torch.equal(bare["logits"], labelled["logits"])


def test_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected images of 64x64 pixels, found 32x32"):
        TeacherTargets(make_teacher())({"image": torch.rand(1, 1, 32, 32)})


def test_batch_without_images_is_refused() -> None:
    with pytest.raises(KeyError, match="image"):
        TeacherTargets(make_teacher())({"label": torch.rand(1, 1, SIZE, SIZE)})
