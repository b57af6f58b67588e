#!/usr/bin/env bash
# Compares our reading and writing of labels in DICOM (SEG, RTSTRUCT) with independent software: plastimatch, dcmqi and
# dciodvfy, on phantom series.
#   bash tests/interop/check_label_interop.sh            uses a temporary folder
#   bash tests/interop/check_label_interop.sh FOLDER     keeps the files in FOLDER
#   PYTHON=/path/to/python bash tests/interop/check_label_interop.sh    uses another environment than .venv
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
missing=0

need() { # command, how to install it
  if ! command -v "$1" >/dev/null 2>&1; then
    printf 'check_label_interop: %s was not found. Install it: %s\n' "$1" "$2" >&2
    missing=1
  fi
}

need "$python" "bash scripts/setup_env.sh, or name one that has the package and its extra dicom: PYTHON=…"
need plastimatch "python3 -m venv second && second/bin/pip install plastimatch dcmqi, then add second/bin to PATH's end"
need itkimage2segimage "as plastimatch"
need dciodvfy "apt-get install dicom3tools"
[ "$missing" = 0 ] || exit 2

if [ $# -gt 0 ]; then
  folder="$1"
  mkdir -p -- "$folder"
else
  folder="$(mktemp -d)"
  trap 'rm -rf -- "$folder"' EXIT
fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m tests.interop.label_interop "$folder"
