from __future__ import annotations

import pytest
from pydicom.sr.codedict import codes

from tskd_monai.data.dicom.seg_writer import LATERALITIES, ORGANS, segment_codings
from tskd_monai.data.task import Label


@pytest.mark.parametrize("coding", [*ORGANS.values(), *LATERALITIES.values()], ids=lambda coding: coding[2])
def test_codes_are_those_of_the_standard(coding):
    keyword = coding[2].title().replace(" ", "")
    assert getattr(codes.SCT, keyword).value == coding[0]
    assert coding[1] == "SCT"


def test_codings_follow_the_name_and_yield_to_the_task():
    assert segment_codings(Label(1, "Kidney_Left"))["laterality"][2] == "Left"
    assert segment_codings(Label(1, "lesion"))["type"] == ("85756007", "SCT", "Tissue")
    own = segment_codings(Label(1, "liver", {"type": ["108369006", "SCT", "Neoplasm"]}))
    assert own["type"][2] == "Neoplasm" and own["category"][2] == "Anatomical Structure"


def test_code_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"Expected \[value, scheme, meaning\] .* of liver, found type: 10200004"):
        segment_codings(Label(1, "liver", {"type": "10200004"}))
