#!/usr/bin/env bash
# Checks style, types, layers and tests in the project's own environment.
#   bash scripts/test.sh                          everything that continuous integration runs
#   bash scripts/test.sh fast                     without the slow tests: under two minutes on two cores
#   bash scripts/test.sh nightly                  the long reliability tests only; also before a release
#   bash scripts/test.sh tests/losses -k kl       arguments go to pytest (a later -n replaces ours)
# Tests on real data need TSKD_REAL_DATA and TSKD_WEIGHTS (folders); without them they are skipped, with the reason.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup_env.sh"
cd -- "$root"
bin="$root/.venv/bin"
logs="$(mktemp -d)"
trap 'rm -rf -- "$logs"' EXIT

# The checks run in parallel; only the output of one that fails is shown.
checks=("ruff check ." "ruff format --check ." "mypy tskd_monai" "lint-imports --no-logo")
pids=()
for number in "${!checks[@]}"; do
  read -r -a words <<<"${checks[number]}"
  "$bin/${words[0]}" "${words[@]:1}" >"$logs/$number" 2>&1 &
  pids+=($!)
done
failed=0
for number in "${!checks[@]}"; do
  wait "${pids[number]}" || {
    printf '%s failed:\n' "${checks[number]}" >&2
    cat -- "$logs/$number" >&2
    failed=1
  }
done
[ "$failed" = 0 ] || exit 1

case "${1:-}" in
  fast) tier=(-m "not slow and not nightly") && shift ;;
  nightly) tier=(-m nightly) && shift ;;
  *) tier=() ;; # all but nightly, by pyproject.toml
esac

# Two single-threaded processes use two cores better than one process with two threads: the tests are small.
export OMP_NUM_THREADS=1
"$bin/pytest" -n 2 --dist worksteal ${tier[@]+"${tier[@]}"} "$@"
