#!/usr/bin/env bash
# Trains over several simulated hospitals with NVFlare, on the embedded phantom or on your data. See --help.
#   bash scripts/federated.sh                                    a student, three sites, a few minutes
#   bash scripts/federated.sh --data DATALIST --sites 5          your patients, dealt to five sites
#   bash scripts/federated.sh --kind teacher --transport float16 the LoRA adapter and decoder of a teacher
# If interrupted, the same command resumes.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"
bash "$root/scripts/setup_env.sh"
if ! "$python" -c 'import nvflare' 2>/dev/null; then
  echo "Installing NVFlare into .venv (extra federated)"
  (cd -- "$root" && "$python" -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt -e '.[federated]')
fi
# One thread a site, which share the cores; nothing is downloaded.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
exec "$python" -m tskd_monai.federated "$@"
