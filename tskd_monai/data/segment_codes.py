"""What the segments of a DICOM SEG are called in SNOMED CT."""

from __future__ import annotations

from collections.abc import Mapping

from tskd_monai.data.task import Label

Coding = tuple[str, str, str]
"""Code value, scheme, meaning."""

ANATOMICAL_STRUCTURE: Coding = ("123037004", "SCT", "Anatomical Structure")
TISSUE: Coding = ("85756007", "SCT", "Tissue")
"""Category and type of a name that the table does not have: the generic code that 3D Slicer uses too."""

ORGANS: dict[str, Coding] = {
    "liver": ("10200004", "SCT", "Liver"),
    "spleen": ("78961009", "SCT", "Spleen"),
    "kidney": ("64033007", "SCT", "Kidney"),
    "pancreas": ("15776009", "SCT", "Pancreas"),
    "gallbladder": ("28231008", "SCT", "Gallbladder"),
    "stomach": ("69695003", "SCT", "Stomach"),
    "duodenum": ("38848004", "SCT", "Duodenum"),
    "esophagus": ("32849002", "SCT", "Esophagus"),
    "adrenal gland": ("23451007", "SCT", "Adrenal gland"),
    "bladder": ("89837001", "SCT", "Bladder"),
    "prostate": ("41216001", "SCT", "Prostate"),
    "aorta": ("15825003", "SCT", "Aorta"),
    "inferior vena cava": ("64131007", "SCT", "Inferior vena cava"),
    "portal vein": ("32764006", "SCT", "Portal vein"),
    "heart": ("80891009", "SCT", "Heart"),
    "lung": ("39607008", "SCT", "Lung"),
    "brain": ("12738006", "SCT", "Brain"),
    "femur": ("71341001", "SCT", "Femur"),
}
LATERALITIES: dict[str, Coding] = {
    "right": ("24028007", "SCT", "Right"),
    "left": ("7771000", "SCT", "Left"),
}


def segment_codings(label: Label) -> dict[str, Coding]:
    """Returns the codes of a label: `category`, `type` and, for one of a pair, `laterality`.

    What `label.snomed` does not hold follows from the name's words (`right kidney`, `kidney_left`); a name that the
    table does not have is Tissue in both.

    Args:
        label: of the task.

    Raises:
        ValueError: when a code is not `[value, scheme, meaning]`.
    """
    words = label.name.lower().replace("_", " ").replace("-", " ").split()
    organ = ORGANS.get(" ".join(word for word in words if word not in LATERALITIES))
    sides = [LATERALITIES[word] for word in words if word in LATERALITIES]
    codings = {"category": ANATOMICAL_STRUCTURE, "type": organ} if organ else {"category": TISSUE, "type": TISSUE}
    if len(sides) == 1:
        codings["laterality"] = sides[0]
    for key, coding in (label.snomed or {}).items():
        if key not in ("category", "type", "laterality") or len(coding) != 3 or isinstance(coding, (str, Mapping)):
            raise ValueError(
                f"Expected [value, scheme, meaning] for category, type or laterality of {label.name}, "
                f"found {key}: {coding}; see labels in task.json."
            )
        value, scheme, meaning = coding
        codings[key] = (str(value), str(scheme), str(meaning))
    return codings
