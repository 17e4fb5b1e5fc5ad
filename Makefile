# medic_ad: `make demo` and `make test` set everything up by themselves.
#
# PYTHON  the Python to build .venv with, 3.11 or newer
# TORCH   what is installed first; name a build for your GPU here, of the version in constraints.txt
# OUT     folder of the demo

PYTHON ?= python3
TORCH ?= torch==2.13.0
OUT ?= build/demo
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up .venv and read a made two-date study whose truth is known"
	@echo "make test   set up .venv and run ruff, mypy and pytest"
	@echo "make lint   ruff and mypy only"
	@echo "make clean  remove .venv and build"

demo: $(VENV)/.demo
	$(BIN)/medic-ad demo --out $(OUT)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy src tests benchmarks

# One environment for both; a stamp says which extras are in, and is made anew when versions change.
$(VENV)/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build
