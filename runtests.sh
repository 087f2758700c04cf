#!/usr/bin/env bash
# Checks style, types and tests in the environment .venv, which is made on first use.
#   ./runtests.sh              the style checks, and all tests that are not slow
#   ./runtests.sh --all        and the slow ones, with the coverage of all tests
#   ./runtests.sh -k sampling  the style checks, and of the tests those that pytest selects by these arguments
# Arguments of pytest may stand behind --all, too. PYTEST_XDIST_AUTO_NUM_WORKERS=1 runs one test at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./environment.sh
use_environment "[dev]"

chosen=(-m "not slow")
if [ "${1:-}" = --all ]; then
  shift
  chosen=()
  if [ $# -eq 0 ]; then
    chosen=(--cov --cov-report=term --cov-fail-under=90)
  fi
fi

echo "== style"
black --quiet --check --line-length 120 bundle tests benchmarks docs
isort --quiet --check-only bundle tests benchmarks docs
flake8 bundle tests benchmarks docs
mypy bundle/scripts

echo "== tests"
rm -f .coverage .coverage.*
exec python -m pytest "${parallel[@]}" --basetemp=.cache/pytest ${chosen[@]+"${chosen[@]}"} "$@"
