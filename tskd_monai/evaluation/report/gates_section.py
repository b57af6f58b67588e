"""Section of the report that shows what the gates of the transfer set measured, dropped and kept."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from statistics import median

from PIL import Image, UnidentifiedImageError

from tskd_monai.data.gates_file import SHEET_NAME, Gates, Interval, Scores, read_gates
from tskd_monai.evaluation.report.figures import chart_figure, histogram
from tskd_monai.evaluation.report.panels import data_uri
from tskd_monai.evaluation.report.tables import html_table


def gates_section(folder: Path) -> str:
    """Returns the HTML of verdict, counts, quality, histograms and contact sheet of the gates.

    Args:
        folder: output of the gates, with `gates.json` and `contact_sheet.png`.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if `gates.json` lacks a field or the contact sheet is not a PNG.
    """
    gates = read_gates(folder)
    return (
        f'<p class="finding"><b>{escape(gates.sentence)}</b></p>'
        f"<h3>Image by image</h3><p>{escape(counts_sentence(gates))}</p>{_quality(gates)}"
        f'<div class="charts">{_histograms(gates)}</div>{_sheet(Path(folder) / SHEET_NAME, gates)}'
    )


def counts_sentence(gates: Gates) -> str:
    """Returns how many images were sampled, kept and dropped, as a sentence."""
    sampled, copies, unsure = (gates.counts[name] for name in ("sampled", "near_copies", "low_confidence"))
    kept = f"Of {_images(sampled)} sampled, {gates.counts['accepted']} {_was(gates.counts['accepted'])} accepted"
    near = f"{copies} of the sampled ({100 * copies / sampled:.1f} %) {_was(copies)} near copies of training images"
    if gates.confidence is None:
        return f"{kept}: {near}; the teacher's confidence was not measured."
    return f"{kept}: {near}, and the teacher's confidence was too low on {unsure}."


def _quality(gates: Gates) -> str:
    rows = [
        _row("KID, synthetic to validation", gates.kid_synthetic, 4),
        _row("KID, training to validation", gates.kid_training, 4),
        _row("MS-SSIM, synthetic", gates.ms_ssim_synthetic, 3),
        _row("MS-SSIM, training", gates.ms_ssim_training, 3),
    ]
    for name, interval in (("synthetic", gates.sharpness_synthetic), ("training", gates.sharpness_training)):
        if interval is not None:
            rows.append(_row(f"Sharpness, {name}", interval, 3))
    table = html_table("Quality of the synthetic images", ["Measure", "Mean", "95 % of draws"], rows)
    reading = (
        f"KID, the kernel inception distance in the features of {gates.encoder}, measures how far apart two sets of "
        "images are: 0 for one distribution, and by chance slightly below. The second row is the distance of two sets "
        "of real images, so the first is good when it is as low. MS-SSIM is the similarity of pairs within a set: "
        "lower is more diverse, and synthetic images well above the training images repeat themselves. Sharpness is "
        "the root mean square of the gradient relative to the standard deviation, median over images. The intervals "
        f"hold 95 % of the random draws ({gates.kid_subsets} subsets of {gates.kid_subset_size} images for KID and "
        "sharpness, each of the training images from as many patients as the validation section has); they do not "
        "cover the variation between training runs. The set fails when its mean KID or MS-SSIM is above the interval "
        "of the training images, or its mean sharpness clearly outside of theirs."
    )
    return f'<div class="narrow">{table}</div><p class="quiet">{escape(reading)}</p>'


def _histograms(gates: Gates) -> str:
    text = ""
    if gates.confidence is not None:
        rule = (
            f"The threshold is the {_percent(gates.confidence_quantile)} quantile of the validation images; 1 means "
            "that the teacher is certain of every class it predicts."
        )
        text += _histogram(gates.confidence, "Teacher's confidence", "Validation", rule)
    rule = (
        f"The threshold is the {_percent(gates.near_copy_quantile)} quantile of the distances of training images to "
        "the nearest of another patient; below it an image is a near copy."
    )
    text += _histogram(gates.pixels, "Distance in pixels", "Training", f"RMS difference after flips and shifts. {rule}")
    encoder = f"Cosine distance of features of {gates.encoder}. The threshold is found as for pixels."
    return text + _histogram(gates.features, "Distance in features", "Training", encoder)


def _histogram(scores: Scores, quantity: str, real: str, caption: str) -> str:
    alt = f"Histogram. {quantity}: threshold {scores.threshold:.3g}"
    for name, values in ((real.lower(), scores.real), ("synthetic", scores.synthetic)):
        below = sum(value < scores.threshold for value in values)
        alt += f"; {_images(len(values), name)}, median {median(values):.3g}, {below} below the threshold"
    chart = histogram({real: scores.real, "Synthetic": scores.synthetic}, scores.threshold, quantity)
    return chart_figure(chart, f"{alt}.", caption)


def _sheet(path: Path, gates: Gates) -> str:
    """Returns the contact sheet as a figure that scrolls sideways on narrow screens."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected {path.name} in {path.parent}, found none; run the gates again.")
    png = path.read_bytes()
    try:
        width = Image.open(io.BytesIO(png), formats=["PNG"]).width
    except UnidentifiedImageError as error:
        raise ValueError(f"Expected a PNG in {path}, found another format; run the gates again.") from error
    alt = (
        "Contact sheet: real images, synthetic images, and the training image nearest to each synthetic one, by "
        "pixels and by features"
    )
    shown = "the real sources of variations; the variations" if gates.derived else "synthetic images"
    caption = (
        f"From the top: real training images; {shown}; below each the training image nearest to it in pixels and in "
        f"features of {gates.encoder}; then the same of the synthetic images that are nearest to a training image."
    )
    image = f'<img src="{data_uri(png)}" alt="{alt}" style="--width: {width}px">'
    return (
        '<figure class="sheet"><div class="scroll" tabindex="0" role="region" aria-label="Contact sheet">'
        f"{image}</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _row(name: str, interval: Interval, digits: int) -> list[str]:
    mean, low, high = (_minus(f"{value:.{digits}f}") for value in (interval.mean, interval.low, interval.high))
    return [name, mean, f"{low} to {high}"]


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _percent(quantile: float) -> str:
    return f"{100 * quantile:g} %"


def _images(count: int, kind: str = "") -> str:
    return f"{count} {kind} image{'' if count == 1 else 's'}".replace("  ", " ")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
