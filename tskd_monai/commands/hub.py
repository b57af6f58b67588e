"""Pushes an exported bundle to a repository of the Hugging Face hub, with a model card.

tskd hub zoo/abdomen_mr_tskd_segmentation --repo_id owner/abdomen_mr_tskd_segmentation --dry_run
tskd hub zoo/abdomen_mr_tskd_segmentation --repo_id owner/abdomen_mr_tskd_segmentation

--dry_run shows the card's header and every file that would be uploaded, without network access. The upload needs a
token (`hf auth login`, or HF_TOKEN). Download a bundle from the hub with
python -m monai.bundle download --name NAME --source huggingface_hub --repo owner/NAME
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and pushes, or shows what would be pushed."""
    parser = argparse.ArgumentParser(
        prog="tskd hub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder written by tskd zoo with --card")
    parser.add_argument("--repo_id", required=True, help="owner/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry_run", action="store_true", help="send nothing")
    args = parser.parse_args(argv)
    try:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
        from huggingface_hub.utils import validate_repo_id

        from tskd_monai.bundle.zoo import hub
    except ImportError as error:
        parser.error(
            f"The hub needs huggingface_hub ({error}); install the extra `training`: pip install "
            "'tskd-monai[training]'."
        )
    try:
        validate_repo_id(args.repo_id)
        if args.dry_run:
            sys.stdout.write(f"{hub.contents_for_hub(args.folder, args.repo_id)} Nothing was uploaded.\n")
        else:
            sys.stdout.write(f"{hub.push(args.folder, args.repo_id, args.private)}\n")
    except (FileNotFoundError, ValueError, HFValidationError, HfHubHTTPError, LocalTokenNotFoundError) as error:
        parser.error(str(error))
