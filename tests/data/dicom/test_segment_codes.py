from __future__ import annotations

import pytest

from tskd_monai.data.dicom.result_writer import ORGANS, segment_codings
from tskd_monai.data.task import Label


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("liver", "10200004"),
        ("spleen", "78961009"),
        ("kidney", "64033007"),
        ("pancreas", "15776009"),
        ("gallbladder", "28231008"),
        ("stomach", "69695003"),
        ("duodenum", "38848004"),
        ("esophagus", "32849002"),
        ("adrenal gland", "23451007"),
        ("bladder", "89837001"),
        ("prostate", "41216001"),
        ("aorta", "15825003"),
        ("inferior vena cava", "64131007"),
        ("portal vein", "32764006"),
        ("heart", "80891009"),
        ("lung", "39607008"),
        ("brain", "12738006"),
        ("femur", "71341001"),
    ],
)
def test_organs_have_their_snomed_code(name: str, value: str) -> None:
    assert name in ORGANS
    codings = segment_codings(Label(1, f"right_{name}"))
    assert codings["type"] == (value, "SCT", name.capitalize())
    assert codings["category"] == ("123037004", "SCT", "Anatomical Structure")
    assert codings["laterality"] == ("24028007", "SCT", "Right")


def test_codings_follow_the_name_and_yield_to_the_task():
    assert segment_codings(Label(1, "Kidney_Left"))["laterality"] == ("7771000", "SCT", "Left")
    assert segment_codings(Label(1, "lesion"))["type"] == ("85756007", "SCT", "Tissue")
    own = segment_codings(Label(1, "liver", {"type": ["108369006", "SCT", "Neoplasm"]}))
    assert own["type"][2] == "Neoplasm" and own["category"][2] == "Anatomical Structure"


def test_code_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"Expected \[value, scheme, meaning\] .* of liver, found type: 10200004"):
        segment_codings(Label(1, "liver", {"type": "10200004"}))
