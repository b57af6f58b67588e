#!/usr/bin/env bash
# The main job on a fresh machine: sets up, makes the embedded data set and runs all four stages on it.
#   bash scripts/demo.sh              into demo_output/ of the checkout
#   bash scripts/demo.sh DIR          into DIR
#   bash scripts/demo.sh DIR SEED     with other patients and other draws (default 0)
# Stopped at any moment, the same command resumes.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
output="${1:-$root/demo_output}"
seed="${2:-0}"
bash "$root/scripts/setup_env.sh"
exec "$root/.venv/bin/tskd" demo "$output" --seed "$seed"
