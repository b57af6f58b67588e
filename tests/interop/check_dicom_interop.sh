#!/usr/bin/env bash
# Compares our reading and writing of DICOM with independent software: highdicom, dcmqi, dciodvfy, dcm2niix and a real
# Orthanc on 127.0.0.1. Phantom series are written, segmented by the stock bundle runner and read back.
#   bash tests/interop/check_dicom_interop.sh            uses a temporary folder
#   bash tests/interop/check_dicom_interop.sh FOLDER     keeps the files in FOLDER
#   PYTHON=/path/to/python bash tests/interop/check_dicom_interop.sh    uses another environment than .venv
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
missing=0

need() { # command, how to install it
  if ! command -v "$1" >/dev/null 2>&1; then
    printf 'check_dicom_interop: %s was not found. Install it: %s\n' "$1" "$2" >&2
    missing=1
  fi
}

need "$python" "bash scripts/setup_env.sh, or name one that has the package and its extra dicom: PYTHON=…"
need segimage2itkimage "python3 -m venv dcmqi && dcmqi/bin/pip install dcmqi, then add dcmqi/bin to the end of PATH"
need dciodvfy "apt-get install dicom3tools"
need dcm2niix "apt-get install dcm2niix"
need Orthanc "apt-get install orthanc (and stop the service it starts: this check runs one of its own)"
[ "$missing" = 0 ] || exit 2

if [ $# -gt 0 ]; then
  folder="$1"
  mkdir -p -- "$folder"
else
  folder="$(mktemp -d)"
  trap 'rm -rf -- "$folder"' EXIT
fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m tests.interop.dicom_interop "$folder"
