#!/usr/bin/env bash
# Creates or updates .venv/ in the checkout, the environment of the demo and the tests.
#   bash scripts/setup_env.sh                 from any folder; a second call takes well under a second
#   PYTHON=python3.11 bash scripts/setup_env.sh   with another interpreter (only when .venv/ is created)
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
stamp="$venv/installed.txt"
log="$venv/install.log"

die() {
  printf 'setup_env: %s\n' "$*" >&2
  exit 1
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; }

# Everything that determines the environment, and its path (a moved .venv does not work).
wanted="$(cd -- "$root" && cat setup.cfg pyproject.toml scripts/constraints.txt tskd_monai/__init__.py | cksum) $root"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  python="${PYTHON:-python3}"
  command -v "$python" >/dev/null 2>&1 || die "'$python' was not found. Install Python 3.10 to 3.13, or name one: PYTHON=/path/to/python3.11"
  supported "$python" || die "needs Python 3.10 to 3.13, but '$python' is $("$python" --version 2>&1). Choose another one: PYTHON=/path/to/python3.11"
  echo "Creating .venv with $("$python" --version 2>&1)"
  "$python" -m venv --clear "$venv" || die "could not create $venv. On Debian and Ubuntu, install the package python3-venv."
fi
supported "$venv/bin/python" || die "needs Python 3.10 to 3.13, but .venv has $("$venv/bin/python" --version 2>&1). Delete $venv and run this again."

# Every install uses the constraints: only their exact pin selects a CPU build of torch; any other specification
# resolves to a CUDA build of several GB.
echo "Installing the package and its tools into .venv (first time: about 3 minutes and 4 GB)"
rm -f "$stamp"
if ! (cd -- "$root" && "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
  -c scripts/constraints.txt -e '.[training,dicom,onnx,dev]' 2>&1) | tee "$log" |
  awk '/^Collecting/ && ++n % 25 == 0 { print "  " n " packages found"; fflush() }
    /^Installing collected/ { print "  unpacking"; fflush() }'; then
  tail -n 20 "$log" >&2
  die "pip failed; the end of its log is above, all of it in $log. Needed: access to a Python package index and about 4 GB of disk. Run this again to continue."
fi
printf '%s\n' "$wanted" >"$stamp"
echo "Environment ready: $venv"
