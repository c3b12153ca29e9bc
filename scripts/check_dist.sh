#!/usr/bin/env bash
# Build wheel and sdist into dist/ and check both: scripts/check_dist.sh PYTHON [OTHER_PYTHON ...]
# PYTHON is the Python of the project's environment. The wheel is built from the sdist. For PYTHON and each
# OTHER_PYTHON (another version, without packages) the wheel is installed into a fresh environment as the README says
# for users who have napari, and every panel is opened. The sdist is installed without napari, with the requirements of
# the engine alone, and registers a pair.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
pythons=("$@")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
bin=bin
[ "${OS:-}" = Windows_NT ] && bin=Scripts

say() { echo "[dist] $*"; }

say "building"
rm -rf dist
"$python" -m build --outdir dist . >"$folder/build.log" 2>&1 || {
    tail -n 20 "$folder/build.log"
    exit 1
}
"$python" -m twine check --strict dist/*

cp constraints.txt scripts/check_wheel.py scripts/check_engine.py "$folder"
constraints="$folder/constraints.txt"
"$python" scripts/check_engine.py --requirements pyproject.toml >"$folder/engine.txt"
if [ -n "${TORCH_INDEX:-}" ]; then grep -v '^torch==' constraints.txt >"$constraints"; fi
dist=$PWD/dist
cd "$folder"
unset PYTHONPATH
export NAPARI_CONFIG="$folder/napari.yaml"
screen=()
[ "$(uname -s)" != Linux ] || [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] ||
    screen=(xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX")

# A fresh environment; the first argument is its Python.
fresh() {
    rm -rf "$folder/venv"
    "$1" -m venv "$folder/venv"
    if [ -n "${TORCH_INDEX:-}" ]; then
        "$folder/venv/$bin/python" -m pip install -qq --no-compile --index-url "$TORCH_INDEX" torch
    fi
}

for one in "${pythons[@]}"; do
    one=$(cd "$OLDPWD" && command -v "$one")
    [[ $one = /* ]] || one=$OLDPWD/$one
    say "installing the wheel with $("$one" --version)"
    fresh "$one"
    "$folder/venv/$bin/python" -m pip install -qq --no-compile -c "$constraints" "$dist"/*.whl "napari[pyqt6]"
    "${screen[@]}" "$folder/venv/$bin/python" -I check_wheel.py
done

say "installing the sdist without napari"
fresh "$python"
"$folder/venv/$bin/python" -m pip install -qq --no-compile -c "$constraints" -r engine.txt
"$folder/venv/$bin/python" -m pip install -qq --no-compile --no-deps "$dist"/*.tar.gz
"$folder/venv/$bin/python" -I check_engine.py
