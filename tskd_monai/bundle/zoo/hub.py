"""An exported bundle on the Hugging Face hub: its files and a card with the licence in the header."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, ModelCardData
from huggingface_hub.utils import filter_repo_objects

from tskd_monai.data.transfer_set import refuse_variations
from tskd_monai.files.json_files import read_json

CARD_NAME = "README.md"
IGNORED = ("eval/*", "*/__pycache__/*", "*.pyc", ".*", "large_files.yml")
"""Leftovers of a run, and the list of large files, which the zoo fetches from elsewhere and the hub stores."""
NOT_COMMERCIAL = (
    "> **Not for commercial use**: the licence of the weights or of the data they were trained on forbids it."
)


def is_exported(folder: Path) -> bool:
    """Returns whether a folder is a bundle exported with the licence of its weights, which the card needs."""
    metadata = folder / "configs" / "metadata.json"
    return metadata.is_file() and "weights_license" in read_json(metadata)


def hub_card(folder: Path) -> str:
    """Returns the README for the hub: the bundle's own with a header of licence, tags and library.

    Args:
        folder: folder of the exported bundle.

    Raises:
        FileNotFoundError: if the folder is not an exported bundle.
        ValueError: if the bundle does not state the licence of its weights, or contains variations of patients' images.
    """
    refuse_variations(folder)
    metadata = read_json(folder / "configs" / "metadata.json")
    if "weights_license" not in metadata:
        raise ValueError(
            f"Expected weights_license in {folder / 'configs' / 'metadata.json'}, found none; export the bundle with "
            "--card, which states it."
        )
    non_commercial = metadata["non_commercial"]
    tags = ["monai", "medical", *metadata["tags"], *(["non-commercial"] if non_commercial else [])]
    header = ModelCardData(
        license=metadata["weights_license"],
        library_name="monai",
        tags=list(dict.fromkeys(tag.lower().replace(" ", "-") for tag in tags)),
        model_name=metadata["name"],
        non_commercial=non_commercial,
    )
    text = (folder / "docs" / "README.md").read_text(encoding="utf-8").replace("](usage.md)", "](docs/usage.md)")
    note = f"{NOT_COMMERCIAL}\n\n" if non_commercial else ""
    return f"---\n{header.to_yaml()}\n---\n\n{note}{text}"


def files_to_send(folder: Path) -> dict[str, int]:
    """Returns the size in bytes of each file that `upload_folder` sends, by path in the repository."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: files[name].stat().st_size for name in filter_repo_objects(files, ignore_patterns=list(IGNORED))}


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads a bundle and its card, and returns the address of the last commit.

    Raises:
        ConnectionError: if the hub refuses or cannot be reached.
        ValueError: see `hub_card`.
    """
    card = hub_card(folder)
    message = f"Upload {folder.resolve().name}"
    try:
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns=list(IGNORED), commit_message=message)
        commit = api.upload_file(
            path_or_fileobj=card.encode(),
            path_in_repo=CARD_NAME,
            repo_id=repo_id,
            commit_message="Upload the model card",
        )
    except Exception as error:  # the classes of the client's network errors differ between its versions
        raise ConnectionError(
            f"Expected to upload {folder} to {repo_id}, failed: {str(error).rstrip('.')}; check the network, and that "
            "the token (`hf auth login`, or HF_TOKEN) may write there."
        ) from error
    return str(commit.commit_url)


def contents_for_hub(folder: Path, repo_id: str) -> str:
    """Returns what `push` would upload, as text: the header of the card, and every file with its size in bytes."""
    card = hub_card(folder)
    header = card.split("---\n")[1]
    sizes = {**files_to_send(folder), CARD_NAME: len(card.encode())}
    files = "".join(f"{size:>10}  {name}\n" for name, size in sizes.items())
    total = f"{sum(sizes.values()) / 1e6:.2f} MB in {len(sizes)} files."
    return f"Header of {CARD_NAME}:\n{header}\nFiles for {repo_id}:\n{files}{total}"
