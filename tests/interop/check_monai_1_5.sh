#!/usr/bin/env bash
# Runs the segmentation bundle under the versions of MONAI Label's server (MONAI 1.5.2, numpy 1.26, pydicom 2): its
# configs are parsed, a volume is segmented and a few steps are trained, as MONAI Label does. These versions overlay the
# project's environment from build/monai_1_5, created by the first call.
#   bash tests/interop/check_monai_1_5.sh          arguments go to pytest
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
[ -n "${PYTHON:-}" ] || bash "$root/scripts/setup_env.sh" >&2
overlay="$root/build/monai_1_5"
requirements="$root/scripts/monai_label_requirements.txt"
packages=()
for name in monai numpy pytorch-ignite pydicom; do
  packages+=("$(grep -E "^$name==" "$requirements")")
done

if [ "$(cat "$overlay/installed.txt" 2>/dev/null)" != "${packages[*]}" ]; then
  rm -rf -- "$overlay"
  "$python" -m pip install --disable-pip-version-check --no-input --quiet --no-deps --target "$overlay" "${packages[@]}" ||
    {
      printf 'check_monai_1_5: could not install %s. Needed: access to a Python package index.\n' "${packages[*]}" >&2
      exit 1
    }
  printf '%s\n' "${packages[*]}" >"$overlay/installed.txt"
fi

cd -- "$root"
export PYTHONPATH="$overlay:$root${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import monai, numpy, pydicom; print("MONAI", monai.__version__, "numpy", numpy.__version__, "pydicom", pydicom.__version__)'
exec "$python" -m pytest -q -p no:cacheprovider tests/bundles/test_monai_label.py "$@"
