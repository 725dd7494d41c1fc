# Everything starts here, on a machine that has Python 3.11 or newer and make: `make help`.
PYTHON ?= python3
PORT ?= 8000
.DEFAULT_GOAL := help
# Stages of `make test` run in their order, whatever -j says.
.NOTPARALLEL:

BIN := .venv/bin
# The environment is remade when the lock, pyproject.toml or the version of Python changes.
VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
READY := .venv/ready-$(VERSION)

# Notebooks, and tests of the built pages: the latter run after the build, all others before it.
PAGE_TESTS := $(wildcard tests/test_pages*.py)
stage = @printf '\n=== %s ===\n' '$(1)'

.PHONY: help
help: ## this list
	@echo "make book and make test need no other step; the first run also makes .venv."
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: book
book: $(READY) ## execute the notebooks that changed and build _build/html
	$(call stage,book: notebooks and pages)
# After a failure nothing read is kept: Sphinx repeats no warning for a page it need not read again.
	@$(BIN)/jupyter-book build . -n -W --keep-going || { rm -rf _build/.doctrees; exit 1; }
	@echo "Open $(CURDIR)/_build/html/index.html, or type: make serve"

.PHONY: serve
serve: ## show the built book at http://localhost:8000 (PORT=...)
	@test -f _build/html/index.html || { echo "No book yet; type: make book"; exit 1; }
	@echo "The book is at http://localhost:$(PORT) until you type Ctrl-C."
	@$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

.PHONY: test
test: lint types unit check book nbval pages ## all checks, in the order below

.PHONY: lint
lint: $(READY) ## style of the code: ruff
	$(call stage,lint)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(READY) ## types of the library and the extensions: basedpyright
	$(call stage,types)
	@$(BIN)/basedpyright

.PHONY: unit
unit: $(READY) ## unit tests, doctests of the library, the example of the README
	$(call stage,unit tests and doctests)
# Two at a time: most of the work is compilation, which uses one core.
	@$(BIN)/pytest -n 2 $(filter-out $(PAGE_TESTS),$(wildcard tests/test_*.py)) \
	    ntkbook README.md --doctest-modules --doctest-glob=README.md

.PHONY: check
check: $(READY) ## stored outputs of the notebooks: complete, in order, no pictures, no paths
	$(call stage,stored outputs)
	@$(BIN)/python book/_ext/check_notebooks.py

.PHONY: nbval
nbval: $(READY) ## execute the notebooks and compare with the stored outputs
	$(call stage,notebooks against their stored outputs)
	@$(BIN)/pytest -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=300 book

.PHONY: pages
pages: book ## browser tests of the built pages
	$(call stage,built pages)
	@$(BIN)/pytest -n 2 $(PAGE_TESTS)

.PHONY: notebooks
notebooks: $(READY) ## execute the notebooks that changed and store their text outputs
	@$(BIN)/python book/_ext/stored_outputs.py
	@$(BIN)/python book/_ext/check_notebooks.py

.PHONY: bench
bench: $(READY) ## speed beside neural-tangents, for the performance page (FLAGS=--quick: a look)
	@$(BIN)/python benchmarks/run.py $(FLAGS)

.PHONY: lock
lock: $(READY) ## derive requirements.lock and environment.yml (FLAGS=--upgrade: newest versions)
	@$(BIN)/python .ci/lock.py $(FLAGS)

.PHONY: venv
venv: $(READY) ## the environment alone

.PHONY: clean
clean: ## remove all that was built, except .venv
	rm -rf _build build .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
	find book ntkbook tests -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml .ci/environment.py
	@test -n "$(VERSION)" || { echo "No '$(PYTHON)' here; name a Python: make PYTHON=..."; exit 1; }
	@$(PYTHON) .ci/environment.py
	@touch $@
