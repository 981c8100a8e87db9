# Each target has one line of help: `make help`.
PYTHON ?= python3
PY := .venv/bin/python
CHAPTERS ?=
DEVICE ?=
TORCH ?=
STORE ?=
RECORDS ?=
LOCK := --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet
.DEFAULT_GOAL := help
.PHONY: help book test notebooks lab data results bench audit check lock clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

book: .venv/.book ## render the stored outputs into _build/html (needs no torch and no data)
	@$(PY) -m tools.book

test: .venv/.test ## unit tests and nbval on every notebook; CHAPTERS="01 12", DEVICE=cuda, TORCH=2.11 select; STORE=1 notes it in Status
	@py=$$($(if $(TORCH),$(PY) -m tools.other_torch $(TORCH),echo $(PY))) && \
	    $$py -m tools.test --chapters "$(CHAPTERS)" --device "$(DEVICE)" --store "$(STORE)"

notebooks: .venv/.test ## execute notebooks and store the outputs that changed; CHAPTERS selects
	@$(PY) -m tools.notebooks --chapters "$(CHAPTERS)"

lab: .venv/.test ## open the notebooks in JupyterLab
	@$(PY) -m jupyterlab notebooks

data: .venv/.test ## fetch and verify the data sets
	@$(PY) -m helpers.datasets fetch

results: .venv/.test ## run the recorded experiments that are missing or stale; RECORDS="a b" selects, CHECK=1 repeats one
	@OMP_NUM_THREADS=1 $(PY) -m helpers.recording $(if $(CHECK),repeat,run $(RECORDS))

bench: .venv/.test ## benchmarks, as ratios measured in one run
	@OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks

audit: .venv/.book ## Lighthouse on three pages of the built book (fetches Lighthouse from npm)
	@$(PY) -m tools.audit

check: .venv/.test ## ruff on helpers, tests and cells; hygiene of notebooks; records up to date
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pytest -q tests/test_hygiene.py
	@$(PY) -m helpers.recording check

lock: .venv/.test ## compile both locks anew from pyproject.toml
	$(PY) -m uv pip compile pyproject.toml --group book --group test -o requirements.txt $(LOCK)
	$(PY) -m uv pip compile --group book -c requirements.txt -o requirements-book.txt $(LOCK)

clean: ## remove the built book and the virtual environments (downloaded data stay)
	rm -rf _build .venv .venv-torch-*

.venv/.book: requirements-book.txt
	@$(PYTHON) tools/install.py book
	@touch $@

.venv/.test: requirements.txt pyproject.toml
	@$(PYTHON) tools/install.py test
	@touch .venv/.book $@
