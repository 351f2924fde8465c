# Sourced by run_all.sh and tests/run.sh, from the repository's root: sets PYTHON to an interpreter that has what
# pyproject.toml asks for. The active environment is used where it has that; otherwise $VENV (.venv) is made and filled.
#   . bench/setup.sh [EXTRA]        EXTRA: an optional set of pyproject.toml, such as tests

# Prints what an interpreter lacks; succeeds when that is nothing.
has_requirements() {
  "$1" - "$2" 2>&1 <<'PYTHON'
import sys, tomllib
from importlib.metadata import PackageNotFoundError, version
from packaging.requirements import Requirement

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
lacking = []
for text in project["dependencies"] + project["optional-dependencies"].get(sys.argv[1], []):
    wanted = Requirement(text)
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        found = None
    if found is None or not wanted.specifier.contains(found, prereleases=True):
        lacking.append(f"{text} (found: {found})")
sys.exit("lacking: " + ", ".join(lacking) if lacking else 0)
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
  echo "installing what the suite needs into $venv (some minutes, several GB the first time)"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".${extra:+[$extra]}"
  PYTHON=$venv/bin/python
  has_requirements "$PYTHON" "$extra"
fi
