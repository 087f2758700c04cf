#!/usr/bin/env bash
# Checks everything: the environment (made in .venv on first use), style, types, and all tests with their coverage.
#   ./runtests.sh              all of it
#   ./runtests.sh -k sampling  the style checks, and the tests that pytest selects by these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./environment.sh
use_environment "[dev]"

echo "== style"
black --quiet --check --line-length 120 bundle tests benchmarks
isort --quiet --check-only bundle tests benchmarks
flake8 bundle tests benchmarks
mypy bundle/scripts

echo "== tests"
rm -f .coverage .coverage.*
if [ $# -gt 0 ]; then
  exec python -m pytest --basetemp=.cache/pytest "$@"
fi
coverage run -m pytest --basetemp=.cache/pytest
coverage combine --quiet
coverage report --fail-under=90
