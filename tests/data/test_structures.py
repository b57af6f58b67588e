"""Structures become a label map: chosen by name or code, absent ones and overlaps only as the user states."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tskd_monai.data.structures import Structure, chosen, label_map, parsed_structures, wanted_of_datalist


def structure(name: str, *voxels: int, codes: tuple[str, ...] = ()) -> Structure:
    mask = np.zeros((5, 1, 1), bool)
    mask[list(voxels)] = True
    return Structure(name, codes, partial(np.copy, mask))


FILE = (structure("LIVER_auto", 0, 1), structure("Left-Kidney", 2, codes=("SCT:64033007",)), structure("GTV", 1, 3))


def labels_of(text: str) -> np.ndarray:
    labels, structures = parsed_structures(text)
    return label_map(FILE, wanted_of_datalist(labels, structures, "a"), (5, 1, 1), "p.dcm").ravel()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left kidney", [0, 0, 1, 0, 0]),
        ("left_kidney=7", [0, 0, 7, 0, 0]),
        ("kidney=SCT:64033007,liver=Leber|liver auto", [2, 2, 1, 0, 0]),
        ("liver=liver_auto,tumour=gtv^", [1, 2, 0, 2, 0]),
        ("tumour=gtv^,liver=liver_auto", [2, 1, 0, 1, 0]),
        ("gtv,spleen?", [0, 1, 0, 1, 0]),
        ("gtv=300", [0, 300, 0, 300, 0]),
    ],
)
def test_labels_of_a_file(text: str, expected: list[int]) -> None:
    assert labels_of(text).tolist() == expected


def test_a_file_with_another_name_for_a_label_is_refused() -> None:
    with pytest.raises(ValueError, match="structure spleen in p.dcm, found LIVER_auto, Left-Kidney, GTV; name"):
        labels_of("gtv,spleen")


def test_an_overlap_without_an_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found tumour and liver in 1 voxels; .* --labels liver,tumour\^"):
        labels_of("liver=liver_auto,tumour=gtv")


def test_two_structures_of_one_name_are_refused() -> None:
    wanted = wanted_of_datalist({"1": "liver"}, None, "a")[0]
    with pytest.raises(ValueError, match="Expected one structure that is liver in p.dcm, found Liver, liver"):
        chosen([structure("Liver", 0), structure("liver", 1)], wanted, "p.dcm")


@pytest.mark.parametrize("text", ["liver,", "=3", "liver=1,spleen=1", "liver,liver", "liver=0", "liver=Leber|"])
def test_malformed_labels_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expected --labels as names of structures"):
        parsed_structures(text)


@pytest.mark.parametrize("given", [["liver"], {"spleen": "x"}, {"liver": []}, {"liver": {"name": "x"}}, {"liver": 3}])
def test_malformed_structures_of_a_datalist_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="a.json: expected .*`structures`"):
        wanted_of_datalist({"0": "background", "1": "liver"}, given, "a.json")
