#!/usr/bin/env bash
# Sets up the environment, writes the embedded dataset and runs all four stages on it.
#   bash scripts/demo.sh              writes to demo_output/ of the checkout
#   bash scripts/demo.sh DIR          writes to DIR
#   bash scripts/demo.sh DIR SEED     with another seed for patients and training (default 0)
# If interrupted, the same command resumes.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
output="${1:-$root/demo_output}"
seed="${2:-0}"
bash "$root/scripts/setup_env.sh"
exec "$root/.venv/bin/tskd" demo --output-dir "$output" --seed "$seed"
