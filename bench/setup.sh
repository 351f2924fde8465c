# Sets PYTHON to an interpreter with the packages that pyproject.toml requires. run_all.sh and tests/run.sh source this file in
# the repository's root. The active environment is used if it has these packages; else they are installed into $VENV (.venv).
#   . bench/setup.sh [EXTRA]        EXTRA: an optional group of packages in pyproject.toml, as tests

# Succeeds if an interpreter has all packages; else prints which are missing.
has_requirements() {
  "$1" - "$2" 2>&1 <<'PYTHON'
import sys, tomllib
from importlib.metadata import PackageNotFoundError, version
from packaging.requirements import Requirement

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
missing = []
for text in project["dependencies"] + project["optional-dependencies"].get(sys.argv[1], []):
    required = Requirement(text)
    try:
        found = version(required.name)
    except PackageNotFoundError:
        found = None
    if found is None or not required.specifier.contains(found, prereleases=True):
        missing.append(f"{text} (found: {found})")
sys.exit("missing: " + ", ".join(missing) if missing else 0)
PYTHON
}

extra=${1:-}
venv=${VENV:-.venv}
PYTHON=
for candidate in python python3 "$venv/bin/python"; do
  if command -v "$candidate" >/dev/null 2>&1 && has_requirements "$candidate" "$extra" >/dev/null; then
    PYTHON=$candidate
    break
  fi
done
if [ -z "$PYTHON" ]; then
  echo "installing the required packages into $venv (the first time: several minutes and GB)"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".${extra:+[$extra]}"
  PYTHON=$venv/bin/python
  has_requirements "$PYTHON" "$extra"
fi
