from __future__ import annotations

import pytest
import torch

from tskd_monai.distillation.teachers import untouched_teacher
from tskd_monai.networks.pretrained import build_encoder


def test_embeddings_are_the_published_encoders_and_there_are_no_logits() -> None:
    teacher, images = untouched_teacher("sam_demo", None, (48, 64)), torch.rand(2, 1, 48, 64)
    logits, embeddings = teacher.forward_with_embeddings(images)
    expected = build_encoder("sam_demo", None, (48, 64)).eval()(images).image_embeddings
    assert logits is None
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-4)  # without gradients other kernels run
    assert embeddings.shape == (2, teacher.encoder.embed_dim, 3, 4)
    assert not embeddings.requires_grad and not teacher.training


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected an encoder out of .*, found 'vit_giant'"):
        untouched_teacher("vit_giant", None, 48)
