#!/usr/bin/env bash
# Serves a segmentation bundle with MONAI Label, for 3D Slicer and OHIF. See --help.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
  cat <<'TEXT'
Serves a segmentation bundle with MONAI Label, for 3D Slicer and OHIF.

  bash scripts/monai_label.sh BUNDLE STUDIES [--port 8000] [--host 127.0.0.1] [--name NAME]

BUNDLE   folder of a student bundle: configs/, models/model.pt. It is linked, not copied: training in MONAI Label
         replaces its models/model.pt when the new weights validate better.
STUDIES  folder with .nii.gz files, to which MONAI Label adds labels/ and datastore_v2.json; or the address of a
         DICOMweb server, such as http://127.0.0.1:8042/dicom-web
--port   port of the server
--host   address to listen on; 0.0.0.0 admits other machines, which can then read the studies without a password
--name   name of the model in the viewer (default: the name of the bundle's folder)

The first call creates a separate environment in build/monai_label/venv (scripts/setup_monai_label.sh). Nothing is
downloaded after that. MONAI Label's own settings, variables that begin with MONAI_LABEL_, are passed on; series from a
DICOMweb server are cached in build/monai_label/dicom unless MONAI_LABEL_DICOMWEB_CACHE_PATH names a folder.
TEXT
}

die() {
  printf 'monai_label: %s\n' "$*" >&2
  exit 2
}

port=8000
host=127.0.0.1
name=""
positional=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      usage
      exit 0
      ;;
    --port | --host | --name)
      [ $# -ge 2 ] || die "expected a value after $1"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    -*) die "expected BUNDLE STUDIES and the options --port, --host and --name, found $1. See --help." ;;
    *)
      positional+=("$1")
      shift
      ;;
  esac
done
[ "${#positional[@]}" = 2 ] || die "expected BUNDLE and STUDIES, found ${#positional[@]} arguments. See --help."
bundle="${positional[0]}"
studies="${positional[1]}"

[ -d "$bundle" ] || die "expected the folder of a bundle at $bundle, found none."
for file in configs/inference.json configs/train.json configs/metadata.json configs/task.json; do
  [ -f "$bundle/$file" ] || die "expected $file in the bundle $bundle, found none. Give the folder that contains configs/."
done
[ -f "$bundle/models/model.pt" ] || die "expected the trained weights at $bundle/models/model.pt, found none. They are written by the distillation bundle or part of a downloaded bundle."
case "$studies" in
  http://* | https://*) ;;
  *) [ -d "$studies" ] || die "expected a folder with .nii.gz files or the http address of a DICOMweb server, found no folder $studies." ;;
esac
bundle="$(cd -- "$bundle" && pwd)"
name="${name:-$(basename -- "$bundle")}"

home="$root/build/monai_label"
server=("$root/scripts/monai_label_server.py" "$bundle" "$studies" --app "$home/apps/$port" --name "$name" --host "$host" --port "$port")
"${PYTHON:-python3}" "${server[@]}" --check # before minutes are spent
python="$(bash "$root/scripts/setup_monai_label.sh")"
export PATH="$(dirname -- "$python"):$PATH" # for dcmqi, which writes DICOM SEG
# Offline: a missing file is an error, not a download.
export HF_HUB_OFFLINE=1 PYTHONPATH="$root:$root/scripts/monai_label_stubs${PYTHONPATH:+:$PYTHONPATH}"
export MONAI_LABEL_DICOMWEB_CACHE_PATH="${MONAI_LABEL_DICOMWEB_CACHE_PATH:-$home/dicom}"
exec "$python" "${server[@]}"
