"""The label maps that a MONAI Label server predicted, drawn over the images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from tests.interop.monai_label_steps import TURNS, LabelSession, stem
from tskd_monai.evaluation.report.display import fullest_slice, load_for_display
from tskd_monai.evaluation.report.panels import label_colours, render_panel


def write_picture(session: LabelSession, path: Path) -> Path:
    """Writes a PNG with a column for each scan, its fullest slice with the labels of both inferences.

    Args:
        session: session in which the scans were segmented `before` and `after` training.
        path: path of the PNG.

    Returns:
        The path.
    """
    colours = label_colours(session.foreground)
    scans = list(session.scans.items())
    figure = Figure(figsize=(3 * len(scans), 3.1 * len(TURNS) + 0.5), layout="constrained")
    axes = figure.subplots(len(TURNS), len(scans))
    for column, (name, scan) in enumerate(scans):
        volume = load_for_display(scan.image)
        index = fullest_slice(load_for_display(session.corrected(scan)).array)
        for row, turn in enumerate(TURNS):
            labels = load_for_display(session.label_map(scan, turn)).array[:, :, index]
            png = render_panel(volume.array[:, :, index], labels.astype(np.int32), colours, volume.pixel_mm)
            axes[row, column].imshow(np.asarray(Image.open(io.BytesIO(png))))
            axes[row, column].set_title(f"{stem(scan)}, {turn}: Dice {session.dice([name], turn):.2f}", fontsize=9)
            axes[row, column].set_axis_off()
    handles = [Patch(color=colour, label=session.foreground[value]) for value, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=120)
    return path
