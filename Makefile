# Two commands: `make demo` and `make test`. Both need Python 3.10 to 3.13 and make, nothing else.
PYTHON ?= python3
SEED ?= 1001
# PyPI's build for Linux on x86-64 brings CUDA, some gigabytes. The CPU build alone:
#   make test TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/i2ploc demo --seed $(SEED) --out out/demo-$(SEED)

test: .venv/installed lint
	$(BIN)/python -m pytest -n 2 --dist loadscope test

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/flake8 saliency_i2ploc_ros launch test setup.py
	$(BIN)/mypy

# Made anew only when the pins or the package's metadata change; torch comes first so that no other
# package can pull a different build of it.
.venv/installed: requirements.txt setup.py setup.cfg
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv out build install log
