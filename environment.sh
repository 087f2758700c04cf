# Sourced by demo.sh and runtests.sh: makes the Python environment of this clone in .venv, once.
# Needs Python 3.11 or newer with its venv module, and a package index that pip can reach.

# Nothing outside this folder is touched: no caches in the home directory, and no user's packages are mixed in.
export XDG_CACHE_HOME="$PWD/.cache" MPLCONFIGDIR="$PWD/.cache/matplotlib" PIP_NO_CACHE_DIR=1 PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME
# What is compiled is kept, in this clone: many of the processes that are started here would compile all of it again.
unset PYTHONDONTWRITEBYTECODE

# Below 3.14 first: from there on a C++ compiler is needed, since pyjpegls has no wheel for it.
find_python() {
  local versions candidate
  for versions in '(3, 11) <= sys.version_info < (3, 14)' '(3, 14) <= sys.version_info'; do
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
      if "$candidate" -c "import sys, venv, ensurepip; sys.exit(not $versions)" 2>/dev/null; then
        command -v "$candidate"
        return
      fi
    done
  done
  echo "No Python 3.11 or newer with its venv module was found: install one (on Debian: python3-venv) and start again." >&2
  return 1
}

# How pytest runs tests side by side: a file's tests in one process, so that what they share is made once, and as many
# processes as cores, but no more than memory has room for.
parallel=(-n auto --maxprocesses 8 --dist loadfile)

# use_environment EXTRA: EXTRA is empty to run the bundle, "[dev]" to test it as well.
use_environment() {
  local wanted=$1 stamp state python
  stamp=".venv/installed-with-${wanted//[^a-z]/}"
  state=$(cat setup.cfg constraints.txt | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
    echo "Setting up the Python environment in .venv (some minutes when packages must be downloaded) ..."
    python=$(find_python)
    if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv --clear .venv
    fi
    # torch first, at the tested version, so that no other package brings in another build of it
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
    # from a copy of what names the packages, since pip leaves its build in the folder it installs from
    mkdir -p .cache/packages
    cp setup.cfg pyproject.toml README.md .cache/packages/
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "./.cache/packages$wanted"
    then
      if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))'; then
        echo "From Python 3.14 on, pyjpegls is compiled: install a C++ compiler and Python's headers (on Debian: g++" \
          "python3-dev), or Python 3.11 to 3.13 with its venv module, remove .venv, and start again." >&2
      fi
      return 1
    fi
    echo "$state" >"$stamp"
  fi
  PATH="$PWD/.venv/bin:$PATH"
}
