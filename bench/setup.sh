# Sourced by run_all.sh and tests/run.sh, from the repository's root: sets PYTHON to an interpreter that has what
# pyproject.toml asks for. The active environment is used where it has that; otherwise .venv is made and filled.
#   . bench/setup.sh [EXTRA]        EXTRA: an optional set of pyproject.toml, such as tests

has_requirements() {
  "$1" - "$2" >/dev/null 2>&1 <<'PYTHON'
import sys, tomllib
from importlib.metadata import version
from packaging.requirements import Requirement

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
needed = project["dependencies"] + project["optional-dependencies"].get(sys.argv[1], [])
wanted = [Requirement(text) for text in needed]
sys.exit(not all(w.specifier.contains(version(w.name), prereleases=True) for w in wanted))
PYTHON
}

extra=${1:-}
PYTHON=
for candidate in python python3 .venv/bin/python; do
  if command -v "$candidate" >/dev/null 2>&1 && has_requirements "$candidate" "$extra"; then
    PYTHON=$candidate
    break
  fi
done
if [ -z "$PYTHON" ]; then
  echo "making .venv and installing what the suite needs (some minutes, several GB the first time)"
  [ -x .venv/bin/python ] || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".${extra:+[$extra]}"
  PYTHON=.venv/bin/python
  has_requirements "$PYTHON" "$extra"
fi
