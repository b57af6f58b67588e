"""Pushes an exported bundle to a repository of the Hugging Face hub, with a model card.

tskd hub zoo/abdomen_mr_tskd_segmentation --repo_id owner/abdomen_mr_tskd_segmentation --dry_run
tskd hub zoo/abdomen_mr_tskd_segmentation --repo_id owner/abdomen_mr_tskd_segmentation

--dry_run shows the card's header and every file that would be sent, without the network. The real call wants a token
(`hf auth login`, or HF_TOKEN). Fetch a bundle from there with
python -m monai.bundle download --name NAME --source huggingface_hub --repo owner/NAME
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from tskd_monai.bundle.zoo.hub import CARD_NAME, IGNORED, files_to_send, hub_card


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Sends a bundle and its card, and returns the address of the last commit."""
    card = hub_card(folder)
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id, folder_path=folder, ignore_patterns=list(IGNORED), commit_message=f"Upload {folder.name}"
    )
    commit = api.upload_file(
        path_or_fileobj=card.encode(), path_in_repo=CARD_NAME, repo_id=repo_id, commit_message="Upload the model card"
    )
    return str(commit.commit_url)


def show(folder: Path, repo_id: str) -> None:
    """Prints what `push` would send."""
    card = hub_card(folder)
    header = card.split("---\n")[1]
    sys.stdout.write(f"Header of {CARD_NAME}:\n{header}\nFiles for {repo_id}:\n")
    sizes = {**files_to_send(folder), CARD_NAME: len(card.encode())}
    for name, size in sizes.items():
        sys.stdout.write(f"{size:>10}  {name}\n")
    sys.stdout.write(f"{sum(sizes.values()) / 1e6:.2f} MB in {len(sizes)} files. Nothing was sent.\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and pushes, or shows what would be pushed."""
    parser = argparse.ArgumentParser(
        prog="tskd hub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="that tskd zoo wrote, exported with --card")
    parser.add_argument("--repo_id", required=True, help="owner/name")
    parser.add_argument("--private", action="store_true", help="where the repository is new")
    parser.add_argument("--dry_run", action="store_true", help="send nothing")
    args = parser.parse_args(argv)
    try:
        validate_repo_id(args.repo_id)
        if args.dry_run:
            show(args.folder, args.repo_id)
        else:
            sys.stdout.write(f"{push(args.folder, args.repo_id, args.private)}\n")
    except (FileNotFoundError, ValueError, HFValidationError, HfHubHTTPError, LocalTokenNotFoundError) as error:
        parser.error(str(error))
