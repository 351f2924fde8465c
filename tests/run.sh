#!/usr/bin/env bash
# The tests, the linter, and the check that results/ is what its records give. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/setup.sh tests

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m bench report --check
"$PYTHON" -m pytest "$@"
