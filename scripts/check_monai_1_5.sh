#!/usr/bin/env bash
# Runs the segmentation bundle under MONAI 1.5.2 and numpy 1.26, in the environment that MONAI Label serves it from:
# its configs are parsed, a volume is segmented and steps are trained, as MONAI Label calls them.
#   bash scripts/check_monai_1_5.sh          arguments go to pytest
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
python="$(bash "$root/scripts/setup_monai_label.sh")"
cd -- "$root"
"$python" -c 'import monai, numpy; print(f"MONAI {monai.__version__}, numpy {numpy.__version__}")'
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m pytest -q -p no:cacheprovider tests/bundles/test_monai_label.py "$@"
