#!/usr/bin/env bash
# Build the wheel, install it into a fresh environment as the README says for users who have napari already (no extra),
# and check it there, outside the source tree: scripts/test_wheel.sh PYTHON, the Python of the project's environment.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { echo "[wheel] $*"; }

say "building the wheel"
"$python" -m hatchling build -t wheel -d "$folder/dist" >/dev/null
say "installing $(basename "$folder"/dist/*.whl) into a fresh environment"
"$python" -m venv "$folder/venv"
cp constraints.txt scripts/check_wheel.py "$folder"
constraints="$folder/constraints.txt"
if [ -n "${TORCH_INDEX:-}" ]; then
    grep -v '^torch==' constraints.txt >"$constraints"
    "$folder/venv/bin/python" -m pip install -qq --no-compile --index-url "$TORCH_INDEX" torch
fi
"$folder/venv/bin/python" -m pip install -qq --no-compile -c "$constraints" "$folder"/dist/*.whl "napari[pyqt6]"

say "checking it"
cd "$folder"
unset PYTHONPATH
export NAPARI_CONFIG="$folder/napari.yaml"
screen=()
[ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] || screen=(xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX")
"${screen[@]}" "$folder/venv/bin/python" -I check_wheel.py
