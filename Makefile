# What a new user runs: `make demo` or `make test`. Everything goes into .venv and nothing else is touched;
# as root, missing system libraries are installed by apt, else the exact line to run is printed.

SHELL := /bin/bash
VENV := .venv
# Commands of an environment are in another folder on Windows.
BIN := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(VENV)/$(BIN)/python
# An index to take torch from instead of the pinned one, for example a CPU or CUDA build's.
TORCH_INDEX ?=
# Extra words for the command that a target runs, for example: make test ARGS="-k nifti"
ARGS ?=
# How many processes the tests are shared among; each takes one core and up to 3 GB.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n > 4 ? 4 : n)))
# Which panels `make pictures` drives, for example: make pictures PICTURES=explorer ARGS=classifier
PICTURES ?= register_panel train_panel align_stack tools explorer
DATA ?=

export TORCH_INDEX
# A window needs an X server with GLX. Without a screen, Xvfb is one; tests start their own.
XRUN := $(if $(DISPLAY)$(WAYLAND_DISPLAY),,xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX")
# The preferences and the cache of your own napari are neither read nor written.
PRIVATE := NAPARI_CONFIG="$(CURDIR)/$(VENV)/napari-settings.yaml" XDG_CACHE_HOME="$(CURDIR)/$(VENV)/cache"

.PHONY: help demo test test-pyside coverage dist lint format docs pictures samples benchmark benchmark-stacks latency clean

help:
	@echo "make demo              open napari on the sample pair and register it"
	@echo "make test              run the whole test suite (ARGS=... goes to pytest, JOBS=1 for one process)"
	@echo "make test-pyside       test the panels with PySide6"
	@echo "make coverage          test and write the coverage to build/coverage.xml"
	@echo "make dist              build wheel and sdist into dist/ and check both in fresh environments"
	@echo "make lint              linters, type checker, import contracts, spelling, manifest"
	@echo "make format            let ruff rewrite the files"
	@echo "make docs              build the site into build/site; a broken link fails"
	@echo "make pictures          drive every panel, make the pictures of README and site again (DATA=sections.tif too)"
	@echo "make samples           write sample_data/ again from its code"
	@echo "make benchmark DATA=.. compare with other programs, in an environment of its own"
	@echo "make benchmark-stacks DATA=.. the same for stacks of sections, beside SOFIMA and feabas"
	@echo "make latency           how long a registration blocks the window"
	@echo "make clean             remove what these commands made"
	@echo
	@echo "TORCH_INDEX=URL        take torch from this package index instead of the pinned version"

# The demo needs a part of it only.
$(VENV)/.installed: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh $(VENV) demo

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh $(VENV)

demo: $(VENV)/.installed
	$(PRIVATE) $(if $(DISPLAY)$(WAYLAND_DISPLAY),,STNREG_DEMO_HEADLESS=1) $(XRUN) $(PY) -m napari_stnreg.demo $(ARGS)

coverage: COVERAGE := --cov --cov-report term:skip-covered --cov-report xml:build/coverage.xml
test coverage: $(VENV)/.ready
	$(PRIVATE) $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(COVERAGE) $(ARGS)

# PySide6 6.12 aborts on Python 3.11 after many signals, hence the pin.
test-pyside: $(VENV)/.ready
	$(PY) -m pip install -qq "PySide6_Essentials==6.11.3"
	QT_API=pyside6 PYTEST_QT_API=pyside6 $(MAKE) --no-print-directory test \
		ARGS="-q --no-header -m 'not slow' tests/widgets tests/acceptance $(ARGS)"

dist: $(VENV)/.ready
	scripts/check_dist.sh $(PY) $(ARGS)

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/$(BIN)/lint-imports
	$(PY) -m codespell_lib
	$(PY) scripts/check_words.py
	$(PY) -m npe2 validate src/napari_stnreg/napari.yaml

format: $(VENV)/.ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "The site is in build/site; open build/site/index.html."

pictures: $(VENV)/.ready
	set -e; for driver in $(PICTURES); do $(PRIVATE) $(XRUN) $(PY) docs/pictures/$$driver.py $(ARGS); done
	$(PY) docs/pictures/settling.py
	$(if $(DATA),$(PY) docs/pictures/lung_sections.py "$(DATA)")
	$(PY) docs/pictures/publish.py

samples: $(VENV)/.ready
	$(PY) -m napari_stnreg.datasets sample_data

.venv-benchmark/.ready: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh .venv-benchmark benchmark

benchmark: .venv-benchmark/.ready
	.venv-benchmark/$(BIN)/python -m benchmark --data "$(DATA)" $(ARGS)

.venv-stacks/.ready: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh .venv-stacks stacks

benchmark-stacks: .venv-stacks/.ready
	OMP_NUM_THREADS=1 .venv-stacks/$(BIN)/python -m benchmark.stacks --data "$(DATA)" $(ARGS)

latency: $(VENV)/.ready
	$(PRIVATE) $(XRUN) $(PY) -m benchmark.gui_latency $(ARGS)

clean:
	rm -rf .venv .venv-benchmark .venv-stacks .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist demo-output
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
