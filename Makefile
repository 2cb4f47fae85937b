# Two commands: `make train` trains LeNet-5 on MNIST, `make test` runs the tests. Both make .venv first, once; the tests
# of CUDA kernels compile them, for which `make test` also installs NVIDIA's compiler where there is one.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILER := $(VENV)/.cuda

.PHONY: train test lint clean

train: $(READY)
	$(BIN)/handgrad train lenet5

test: $(READY) $(COMPILER)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 11) <= v < (3, 14); \
	  sys.exit(None if ok else "handgrad needs Python 3.11 to 3.13, not %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@echo "installing handgrad and its tools into $(VENV): one to two minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[sample,dev]"
	@touch $(READY)

$(COMPILER): $(READY)
	@if [ "$$(uname -s)" = Linux ]; then \
	  echo "installing the compiler for CUDA kernels: one to two minutes, once"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[cuda]"; \
	fi
	@touch $(COMPILER)

clean:
	rm -rf $(VENV) build *.egg-info
