# Sourced by the scripts beside it: a virtual environment in .venv, made once and brought up to date.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# Choose the Python that makes .venv: $PYTHON, else the first of these that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" > /dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "no Python 3.11 or newer was found; set PYTHON to one" >&2
  return 1
}

# Install this checkout into .venv. The argument is the extras: install_treadle "[test]"
install_treadle() {
  if [ ! -x .venv/bin/python ]; then
    "$(find_python)" -m venv .venv
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c ci/constraints.txt -e ".${1:-}"
}
