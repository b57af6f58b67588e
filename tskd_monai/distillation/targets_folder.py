"""A folder of soft targets: the files of `target_cache`, and `targets.json`, which says what made each of them.

```
targets/
  0f3a….npz, …             target of an image, named by a hash of sources, task and image
  targets.json             the fields of RECIPE, "images" by the stem of their file, each with the fields of ENTRY, and
                           "measured", the same for labelled images that no student learns from; written at the end
  targets.progress.jsonl   while the stage runs: the recipe, then a line for each finished image
```

`refined` of an entry names each prompted class with the IoU of both masks and the weight of the refined one; `sources`
are the indices of the averaged sources; `sha256` is that of the file; `overlap` of a measured image counts pixels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tskd_monai.data.task import Task
from tskd_monai.distillation.target_cache import QuantisedTarget, TargetCache, read_target
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import Fields, check_fields, parse_json, read_json, write_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST_NAME = "targets.json"
PROGRESS_NAME = "targets.progress.jsonl"
RECIPE: Fields = {
    "format_version": (int,),
    "task_hash": (str,),
    "sources": (list,),
    "feature_channels": (int,),
    "refiner": (dict, type(None)),
}
ENTRY: Fields = {"sha256": (str,), "sources": (list,), "refined": (dict,)}
MEASURED: Fields = {"overlap": (dict,), "refined": (dict,)}
KEY = re.compile(r"[0-9a-f]{32}")
ADVICE = "make the targets again with targets.yaml"
Entries = dict[str, dict[str, Any]]


def recipe_of(
    task: Task, sources: Sequence[Mapping[str, Any]], feature_channels: int, refiner: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns everything that determines the targets of an image.

    Args:
        task: task of the targets.
        sources: record of each source.
        feature_channels: channels of the features; 0: none.
        refiner: record of the refiner; None: not refined.
    """
    return {
        "format_version": FORMAT_VERSION,
        "task_hash": task.hash,
        "sources": [dict(source) for source in sources],
        "feature_channels": feature_channels,
        "refiner": None if refiner is None else dict(refiner),
    }


def source_sha256(recipe: Mapping[str, Any]) -> str:
    """Returns the sha256 that is part of the targets' names: the teacher's, if it is the only source, in one view.

    The folder then serves as the `--cache_dir` of the same teacher too.
    """
    first, *others = recipe["sources"]
    plain = (first["kind"], first.get("views"), first.get("mirror")) == ("teacher", 1, False)
    if plain and not others and recipe["refiner"] is None:
        return str(first["sha256"])
    own = {name: recipe[name] for name in RECIPE}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


class TargetsWriter:
    """Writes a targets folder image by image, and resumes one that was interrupted.

    Args:
        folder: folder, created if missing.
        recipe: see `recipe_of`.
        task: task of the targets.

    Raises:
        ValueError: when the folder holds targets of another task or other sources; names the difference.
    """

    def __init__(self, folder: str | Path, recipe: Mapping[str, Any], task: Task) -> None:
        self.folder, self.recipe = Path(folder), dict(recipe)
        self.cache = TargetCache(folder, source_sha256(recipe), task)
        self.images: Entries = {}
        self.measured: Entries = {}
        self._load()

    def key(self, image: Tensor) -> str:
        """Returns the key of an image: the stem of its target's file."""
        return self.cache.path(image).stem

    def has(self, key: str, measured: bool = False) -> bool:
        """Returns whether an image is finished: measured, or with a file that is the one that was written."""
        if measured:
            return key in self.measured
        if key not in self.images:
            return False
        path = self.folder / f"{key}.npz"
        if path.is_file() and file_sha256(path) == self.images[key]["sha256"]:
            return True
        logger.warning("%s is missing or damaged; its target is made again.", path.name)
        return False

    def begin(self) -> None:
        """Writes the progress so far, to which the images are added."""
        lines = [self.recipe, *({"key": key, "image": entry} for key, entry in self.images.items())]
        lines += [{"key": key, "measured": entry} for key, entry in self.measured.items()]
        with atomic_path(self.folder / PROGRESS_NAME) as temporary:
            temporary.write_text("".join(map(_line, lines)), encoding="utf-8")

    def add(self, image: Tensor, target: QuantisedTarget, entry: Mapping[str, Any]) -> None:
        """Writes the target of an image, then its line.

        Args:
            image: (C, H, W), float32.
            target: target of the image.
            entry: fields of ENTRY but the sha256.
        """
        self.cache.write(image, target)
        key = self.key(image)
        self.images[key] = {"sha256": file_sha256(self.folder / f"{key}.npz"), **entry}
        self._append({"key": key, "image": self.images[key]})

    def add_measured(self, key: str, entry: Mapping[str, Any]) -> None:
        """Writes the line of a measured image; its target is not kept.

        Args:
            key: key of the image.
            entry: fields of MEASURED.
        """
        self.measured[key] = dict(entry)
        self._append({"key": key, "measured": self.measured[key]})

    def finish(self, images: Iterable[str], measured: Iterable[str]) -> None:
        """Writes `targets.json` with these images, and removes the progress.

        Args:
            images: keys of the images with a target.
            measured: keys of the measured images.
        """
        content = {
            **self.recipe,
            "images": {key: self.images[key] for key in sorted(set(images))},
            "measured": {key: self.measured[key] for key in sorted(set(measured))},
        }
        write_json(self.folder / MANIFEST_NAME, content)
        (self.folder / PROGRESS_NAME).unlink(missing_ok=True)

    def _append(self, content: Mapping[str, Any]) -> None:
        with (self.folder / PROGRESS_NAME).open("a", encoding="utf-8") as file:
            file.write(_line(content))

    def _load(self) -> None:
        """Reads what an earlier run has finished."""
        manifest, progress = self.folder / MANIFEST_NAME, self.folder / PROGRESS_NAME
        if manifest.is_file():
            content = load_manifest(self.folder)
            self._require_same(content, manifest)
            self.images, self.measured = dict(content["images"]), dict(content["measured"])
        if progress.is_file():
            recipe, *lines = _whole_lines(progress) or [self.recipe]
            self._require_same(recipe, progress)
            for line in lines:
                if "image" in line:
                    self.images[line["key"]] = line["image"]
                else:
                    self.measured[line["key"]] = line["measured"]

    def _require_same(self, found: Mapping[str, Any], path: Path) -> None:
        differing = [name for name in RECIPE if found.get(name) != self.recipe[name]]
        if differing:
            raise ValueError(
                f"Expected targets of the same task and sources in {path.parent.name}/{path.name}, found another "
                f"{' and '.join(differing)}; choose another --output_dir, or give the options it was made with."
            )


class StoredTargets(nn.Module):
    """A folder of targets instead of a teacher.

    Args:
        folder: folder of `targets.yaml`.
        task: task; targets of another one are refused.

    Attributes:
        embed_dim: channels of the features; 1, all zeros, if there are none.
        has_features: whether there are features.

    Raises:
        FileNotFoundError: if the folder has no `targets.json`, or the stage was interrupted.
        ValueError: if the targets are of another task, or `targets.json` is damaged.
    """

    def __init__(self, folder: str | Path, task: Task) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.content = load_manifest(self.folder)
        if self.content["task_hash"] != task.hash:
            raise ValueError(
                f"Expected targets of task {task.hash[:12]} at --targets {folder}, found those of task "
                f"{self.content['task_hash'][:12]}; {ADVICE} for this task."
            )
        self.cache = TargetCache(folder, source_sha256(self.content), task)
        self.has_features = self.content["feature_channels"] > 0
        self.embed_dim = max(1, int(self.content["feature_channels"]))

    def read(self, images: Sequence[Tensor]) -> list[QuantisedTarget]:
        """Returns the target of each image.

        Args:
            images: (C, H, W), float32, preprocessed and not augmented.

        Raises:
            ValueError: when images have no target, or a file is damaged; states how many, and what to do.
        """
        paths = [self.cache.path(image) for image in images]
        missing = sum(path.stem not in self.content["images"] for path in paths)
        if missing:
            raise ValueError(
                f"Expected a target of each of {len(images)} images at --targets {self.folder}, found {missing} images "
                "without one; run targets.yaml with the same --datalist, --fold and --transfer_set, on this machine if "
                "another one preprocessed the images."
            )
        return [self._read(path) for path in paths]

    def any_target(self) -> QuantisedTarget:
        """Returns one of the targets, for a trial step."""
        return self._read(self.folder / f"{next(iter(self.content['images']))}.npz")

    def _read(self, path: Path) -> QuantisedTarget:
        if not path.is_file() or file_sha256(path) != self.content["images"][path.stem]["sha256"]:
            raise ValueError(
                f"Expected the target that {MANIFEST_NAME} lists at {path.parent.name}/{path.name}, found "
                f"{'another file' if path.is_file() else 'no file'}; run targets.yaml again with the same options."
            )
        return read_target(path)


def load_manifest(folder: str | Path) -> dict[str, Any]:
    """Returns the content of a folder's `targets.json`, checked.

    Raises:
        FileNotFoundError: if there is none, or the stage was interrupted.
        ValueError: if it is damaged, lists no image, or is of another version.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        found = "targets whose making was interrupted" if (path.parent / PROGRESS_NAME).is_file() else "none"
        raise FileNotFoundError(f"Expected {MANIFEST_NAME} at --targets {folder}, found {found}; run targets.yaml.")
    content = read_json(path)
    check_fields(content, {**RECIPE, "images": (dict,), "measured": (dict,)}, str(path), ADVICE)
    if content["format_version"] != FORMAT_VERSION:
        found = content["format_version"]
        raise ValueError(f"Expected format_version {FORMAT_VERSION} in {path}, found {found}; {ADVICE}.")
    for index, source in enumerate(content["sources"]):
        check_fields(source, {"kind": (str,), "sha256": (str,)}, f"{path}, sources[{index}]", ADVICE)
    if not content["images"] or not content["sources"] or not all(map(KEY.fullmatch, content["images"])):
        raise ValueError(f"Expected images and their sources in {path}, found none; {ADVICE}.")
    for group, fields in (("images", ENTRY), ("measured", MEASURED)):
        for key, entry in content[group].items():
            check_fields(entry, fields, f"{path}, {group} {key}", ADVICE)
    return dict(content)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, allow_nan=False) + "\n"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a progress file but the last one, if it was cut off.

    Raises:
        ValueError: when another line is damaged.
    """
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            content = parse_json(line.decode())
        except ValueError as error:
            raise ValueError(
                f"Expected JSON in line {number} of {path}, found {error}; remove this file, and images are made again."
            ) from error
        check_fields(content, RECIPE if number == 1 else {"key": (str,)}, f"{path}, line {number}", "remove this file")
        found.append(content)
    return found
