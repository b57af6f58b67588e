#!/usr/bin/env bash
# Style, types and tests, in the project's own environment.
#   bash scripts/test.sh                          everything
#   bash scripts/test.sh tests/losses -k kl       arguments go to pytest (a later -n replaces ours)
# Tests on real data want TSKD_REAL_DATA and TSKD_WEIGHTS (folders) and are skipped, with the reason, without.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup_env.sh"
cd -- "$root"
bin="$root/.venv/bin"

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy" tskd_monai
"$bin/lint-imports" --no-logo 2>/dev/null || "$bin/lint-imports"

# Two processes of one thread each use two cores better than one process of two threads: the tests are small.
export OMP_NUM_THREADS=1
exec "$bin/pytest" -n 2 --dist worksteal "$@"
