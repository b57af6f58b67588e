"""What pydicom and highdicom log: values of elements, among them names, dates and UIDs of patients."""

from __future__ import annotations

import logging
import warnings

LIBRARIES = ("pydicom", "highdicom")


def keep_values_out_of_logs() -> None:
    """Silences the libraries' logs and warnings in this process.

    `Invalid value for VR DA: '1964-02-29'`, `value of argument "patient_name" is potentially invalid: "…"` and `copy
    Patient-related attributes from dataset "1.2.840…"` are such lines. What matters in them we check and say ourselves,
    by the names of the elements.
    """
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=rf"{name}\.")
