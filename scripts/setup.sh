#!/usr/bin/env bash
# Make an environment and put the project into it: scripts/setup.sh FOLDER [demo|project|benchmark|stacks]
# "demo" installs what users install, "project" (the default) also what tests, checks and documentation need.
# scripts/setup.sh --system-only installs the missing system packages and nothing else.
# Called by the Makefile, which calls it again only when pyproject.toml, constraints.txt or this file changed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
kind=${2:-project}

bin=bin
[ "${OS:-}" = Windows_NT ] && bin=Scripts

say() { echo "[setup] $*"; }

# As root, install packages by apt; as anyone else, print the line that does and stop.
need_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing system packages: $*"
        apt-get update -qq >/dev/null || say "apt-get update failed; trying with the package lists at hand"
        if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; then
            say "apt-get could not install: $*. Install these packages, then try again."
            exit 1
        fi
    elif command -v apt-get >/dev/null; then
        say "System packages are missing. Run this once, then try again:"
        echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
        exit 1
    else
        say "System packages are missing. On Debian and Ubuntu they are called: $*"
        say "Install the packages of your system with these libraries, then try again."
        exit 1
    fi
}

# 1. A Python that is new enough, and its venv.
python=""
candidates=(python3 python3.13 python3.12 python3.11 python)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ] && [ -n "${PYTHON:-}" ]; then
    say "'$PYTHON' is not Python 3.11 or newer. Name another one: make demo PYTHON=/path/to/python"
    exit 1
elif [ -z "$python" ]; then
    say "Python 3.11 or newer was not found. Install it, or name one: make demo PYTHON=/path/to/python"
    exit 1
fi
missing=""
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # python3-venv serves the system's own Python, python3.X-venv one from elsewhere.
    missing=" $(basename "$python")-venv"
fi

# 2. Libraries that Qt and OpenGL load at run time, found by the file they load. The benchmark shows nothing.
libraries="libGL.so.1=libgl1 libEGL.so.1=libegl1 libxkbcommon.so.0=libxkbcommon0 libfontconfig.so.1=libfontconfig1
    libdbus-1.so.3=libdbus-1-3 libglib-2.0.so.0=libglib2.0-0 libxcb-cursor.so.0=libxcb-cursor0
    libxcb-icccm.so.4=libxcb-icccm4 libxcb-keysyms.so.1=libxcb-keysyms1 libxkbcommon-x11.so.0=libxkbcommon-x11-0
    libxcb-shape.so.0=libxcb-shape0"
if [[ $kind = project || $kind = demo ]] && [ "$(uname -s)" = Linux ]; then
    present=$({ ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null || true)
    for pair in $libraries; do
        grep -q "^[[:space:]]*${pair%%=*} " <<<"$present" || missing="$missing ${pair##*=}"
    done
    if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
        command -v xvfb-run >/dev/null && command -v Xvfb >/dev/null || missing="$missing xvfb"
        command -v xauth >/dev/null || missing="$missing xauth"
    fi
fi
# shellcheck disable=SC2086
[ -z "$missing" ] || need_packages $missing

[ "$venv" != --system-only ] || exit 0

# 3. The environment. pip prints errors only; the long step is announced.
if ! "$venv/$bin/python" -c pass 2>/dev/null; then
    rm -rf "$venv"
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Python compiles what it imports when it imports it, unless that is turned off; compiling all packages takes a minute.
compile=(--no-compile)
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || compile=(--compile)
pip() {
    if ! "$venv/$bin/python" -m pip install -qq "${compile[@]}" "$@"; then
        say "pip could not install the packages above. Check the network connection and the free disk space, then try again."
        exit 1
    fi
}
constraints="$venv/constraints.txt"
cp constraints.txt "$constraints"
say "installing into $venv (the first time this takes several minutes and about 2 GB)"
if [ -n "${TORCH_INDEX:-}" ]; then
    say "taking torch from $TORCH_INDEX"
    grep -v '^torch==' constraints.txt >"$constraints"
    # With torch present, the later lines leave it as it is.
    pip --index-url "$TORCH_INDEX" torch
fi
if [ "$kind" = demo ]; then
    pip -c "$constraints" -e ".[all]"
elif [ "$kind" = project ]; then
    pip -c "$constraints" -e ".[dev]"
elif [ "$kind" = stacks ]; then
    # The peers that align sections: feabas, and SOFIMA with what it needs. The wheel of sofima 0.1 is empty, so its
    # source is unpacked here; it is of 2023, as are the numpy, scipy and jax that it runs with.
    pip -c "$constraints" torch "numpy<2" "scipy>=1.12,<1.14" nibabel pydantic safetensors tifffile imageio tqdm \
        "dask[array]" zarr ome-zarr-models threadpoolctl psutil feabas==3.0.6 "pyamg<5.3" jax==0.4.30 jaxlib==0.4.30 \
        connectomics absl-py dataclasses-json edt
    "$venv/$bin/python" -m pip download -qq --no-deps --no-binary :all: --dest "$venv/sofima" sofima==0.1
    packages=$("$venv/$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$packages/sofima"
    tar -xzf "$venv"/sofima/sofima-0.1.tar.gz -C "$packages/sofima" --strip-components 1 --wildcards 'sofima-0.1/*.py'
    pip --no-deps -e .
else
    # What the engine and the peers need; napari itself is not part of a benchmark. The peers rule the versions of
    # numpy and scipy here, so everything is resolved in one go and the project comes last, without its own list.
    pip -c "$constraints" torch numpy scipy nibabel pydantic safetensors tifffile imageio tqdm psutil threadpoolctl \
        itk-elastix antspyx dipy scikit-image SimpleITK hydra-core pandas
    # FireANTs asks for an old SimpleITK that has no wheel for every Python; the current one does.
    pip --no-deps fireants
    pip --no-deps -e .
fi
touch "$venv/.installed"
[ "$kind" = demo ] || touch "$venv/.ready"
say "done"
