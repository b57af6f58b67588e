#!/usr/bin/env bash
# Creates or updates build/monai_label/venv, the environment of the MONAI Label server. It is a separate environment
# because the server needs MONAI 1.5.2, numpy 1.26 and pydicom 2. The last line printed is the path of its Python.
#   bash scripts/setup_monai_label.sh                       from any folder; a second call takes well under a second
#   PYTHON=python3.11 bash scripts/setup_monai_label.sh     with another interpreter (only when it is created)
#   MONAI_LABEL_VENV=DIR bash scripts/setup_monai_label.sh  another folder
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${MONAI_LABEL_VENV:-$root/build/monai_label/venv}"
requirements="$root/scripts/monai_label_requirements.txt"
server="monailabel==0.8.5"
stamp="$venv/installed.txt"
log="$venv/install.log"

die() {
  printf 'setup_monai_label: %s\n' "$*" >&2
  exit 1
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; }

wanted="$(cksum <"$requirements") $server $venv"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  echo "$venv/bin/python"
  exit 0
fi

python="${PYTHON:-python3}"
command -v "$python" >/dev/null 2>&1 || die "'$python' was not found. Install Python 3.10, 3.11 or 3.12, or name one: PYTHON=/path/to/python3.11"
supported "$python" || die "needs Python 3.10, 3.11 or 3.12, but '$python' is $("$python" --version 2>&1). Choose another one: PYTHON=/path/to/python3.11"
echo "Creating the MONAI Label environment with $("$python" --version 2>&1) (first time: about 3 minutes and 2.5 GB)" >&2
mkdir -p -- "$(dirname -- "$venv")"
"$python" -m venv --clear "$venv" || die "could not create $venv. On Debian and Ubuntu, install the package python3-venv."

pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"; }
# The server without its dependencies: sam2, listed but not needed, builds with a CUDA torch of several GB.
if ! { pip_install -r "$requirements" && pip_install --no-deps "$server"; } 2>&1 | tee "$log" |
  awk '/^Collecting/ && ++n % 25 == 0 { print "  " n " packages found"; fflush() }
    /^Installing collected/ { print "  unpacking"; fflush() }' >&2; then
  tail -n 20 "$log" >&2
  die "pip failed; the end of its log is above, all of it in $log. Needed: access to a Python package index and 2.5 GB of disk."
fi
printf '%s\n' "$wanted" >"$stamp"
echo "$venv/bin/python"
