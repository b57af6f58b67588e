#!/usr/bin/env bash
# Drives the real MONAI Label server over REST, as 3D Slicer and OHIF do: inference, labels, fine-tuning, next sample,
# on NIfTI files and on DICOM studies of a real Orthanc. Prints a line per step, with its time; exits 1 if one fails.
#   bash tests/interop/check_monai_label.sh                        uses a temporary folder and a student trained for it
#   bash tests/interop/check_monai_label.sh --output FOLDER        keeps the label maps, the figure and server logs
#   bash tests/interop/check_monai_label.sh --bundle BUNDLE        uses a copy of this student of the embedded dataset
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
missing=0

need() { # what, how to get it
  printf 'check_monai_label: %s was not found. Install it: %s\n' "$1" "$2" >&2
  missing=1
}

plugin="${ORTHANC_DICOMWEB:-/usr/share/orthanc/plugins/libOrthancDicomWeb.so}"
command -v Orthanc >/dev/null 2>&1 || need Orthanc "apt-get install orthanc (and stop the service it starts: this check runs one of its own)"
[ -e "$plugin" ] || need "Orthanc's DICOMweb plugin" "apt-get install orthanc-dicomweb, or name the file: ORTHANC_DICOMWEB=…"
[ "$missing" = 0 ] || exit 2

python="${PYTHON:-$root/.venv/bin/python}"
[ -n "${PYTHON:-}" ] || bash "$root/scripts/setup_env.sh"
unset PYTHON # the server's environment is made with the python3 of the path
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m tests.interop.monai_label_checks --plugin "$plugin" "$@"
