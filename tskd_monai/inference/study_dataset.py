"""Studies that are read one by one, of which some may not be readable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset

from tskd_monai.data.image_ranges import UNLIKE_TRAINING
from tskd_monai.data.output_names import output_name
from tskd_monai.inference.cases import Study
from tskd_monai.inference.failures import describe

STUDY, OUTPUT, FAILURE, WARNING = "study", "output", "failure", "warning"


class StudyDataset(Dataset):
    """Reads studies; one that cannot be read is handed on with the reason instead of ending the run.

    An item is what the transform makes of the study, `output`, what its outputs are named after, and `warning`, how it
    differs from the training images (or an empty text); or `failure`, the message; and `study`, the study's index.

    Args:
        data: studies with `image`.
        transform: from a study to the network's input.
    """

    def __init__(self, data: Sequence[Study], transform: Callable[[Any], Any]) -> None:
        super().__init__(list(data), transform)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Returns one study, read or failed."""
        try:
            item = self._transform(index)
        except Exception as error:  # whatever the reason, the other studies do not suffer from it
            return {STUDY: index, FAILURE: describe(error)}
        name = str(output_name(item["image"].meta, None)["subject"]).removesuffix(".nii.gz")
        return {**item, STUDY: index, OUTPUT: name, WARNING: item["image"].meta.get(UNLIKE_TRAINING, "")}
