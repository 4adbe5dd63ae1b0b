# communique: `make` lists what there is. Every pipeline target is `python -m training <same word>`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := .make
CONFIG ?= configs/minilm.yaml
SWEEP ?= configs/sweep.yaml
RUN ?= runs/model
BUNDLE ?= bundles/model
ARTICLE ?= datasets/articles/ceasefire.md
PORT ?= 5000
# pip's own progress bars show on a terminal; elsewhere a line a package is enough.
PIP := $(PY) -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help setup peers model corpus train evaluate report compare sweep export promote rollback runs package read test fuzz fixtures ui screenshots lint types imports check audit format clean

help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo
	@echo '  CONFIG=$(CONFIG)  SWEEP=$(SWEEP)  RUN=$(RUN)  BUNDLE=$(BUNDLE)  PORT=$(PORT)'

setup: $(STAMP)/training ## virtual environment with everything pinned (also done by the other targets)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'communique needs Python 3.11 or newer; name one with make PYTHON=…'; exit 2; }
	@echo 'making $(VENV) …'
	@$(PYTHON) -m venv $(VENV)
	@# dependency groups need a pip of 2025 or later
	@$(PY) -m pip --disable-pip-version-check install --quiet 'pip>=25.1'

$(STAMP)/training: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'installing the pipeline (once; a few minutes) …'
	@# torch first and by its exact version: a bare `torch` may bring gigabytes of CUDA packages
	@$(PIP) torch==2.13.0
	@$(PIP) -e '.[training]'
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/dev: $(STAMP)/training
	@echo 'installing the test tools …'
	@$(PIP) --group dev
	@touch $@

peers: $(STAMP)/training ## install the other trainers that benchmarks/ measures against
	@$(PIP) --group peers

model: setup ## corpus -> train -> track -> evaluate -> export -> wheel -> read an article with it
	@$(MAKE) --no-print-directory corpus
	@$(MAKE) --no-print-directory train
	@$(MAKE) --no-print-directory export
	@$(MAKE) --no-print-directory package
	@$(MAKE) --no-print-directory read
	@wheel=$$(ls dist/communique-*.whl); printf '%s\n' '' "The wheel is $$wheel. Six lines that use it, after pip install $$wheel:" '' \
	  '    import communique' \
	  '    classifier = communique.load()' \
	  '    statement = classifier("Oslo is ready to host the talks if both sides stop the shelling.")' \
	  '    print(statement.intents, statement.probabilities)' \
	  '    for sentence in classifier.read(open("article.txt", encoding="utf-8").read()):' \
	  '        print(sentence.start, sentence.intents, sentence.text)'

corpus: setup ## check the corpus and print its statistics
	@$(PY) -m training corpus

train: setup ## train CONFIG into RUN, track it, evaluate it (reused where nothing changed); SEEDS=3 for a spread
	@$(PY) -m training train $(CONFIG) --output $(RUN) $(if $(SEEDS),--seeds $(SEEDS))

sweep: setup ## look for a better config: SWEEP; goes on where it stopped; TRIALS=50 for another number
	@$(PY) -m training sweep $(SWEEP) $(if $(TRIALS),--trials $(TRIALS))

evaluate: setup ## evaluate RUN on its test split, or ON=FILE
	@$(PY) -m training evaluate $(RUN) $(if $(ON),--on $(ON))

report: setup ## RUN on one page, report.html (train and evaluate write it too)
	@$(PY) -m training report $(RUN)

compare: setup ## which of the runs RUNS="A B …" (all finished ones) is better, and is it real
	@$(PY) -m training compare $(or $(RUNS),--all) $(if $(SPLIT),--split $(SPLIT))

export: setup ## RUN to a verified bundle in BUNDLE (reused where nothing changed)
	@$(PY) -m training export $(RUN) --output $(BUNDLE)

promote: setup ## register BUNDLE of RUN in MLflow; champion if it passes the gate, or with FORCE="reason"
	@$(PY) -m training promote $(RUN) --bundle $(BUNDLE) $(if $(FORCE),--force "$(FORCE)")

rollback: setup ## the champion before this one is champion again
	@$(PY) -m training rollback

runs: setup ## what lies in runs/ and what it weighs; DELETE="A B …" deletes their weights, not their figures
	@$(PY) -m training runs $(if $(DELETE),--delete-weights $(DELETE))

package: setup ## BUNDLE to one wheel in dist/
	@$(PY) -m training package $(BUNDLE)

read: ## install the wheel into an empty venv and read ARTICLE there
	@wheel=$$(ls dist/communique-*.whl) && sum=$$(sha256sum "$$wheel") && \
	if [ "$$sum" != "$$(cat $(STAMP)/wheel 2>/dev/null)" ]; then \
	  echo 'installing the wheel into .venv-wheel …'; \
	  $(PYTHON) -m venv --clear .venv-wheel && \
	  .venv-wheel/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt "$$wheel" && echo "$$sum" > $(STAMP)/wheel; \
	fi
	@cd /tmp && $(CURDIR)/.venv-wheel/bin/communique read $(CURDIR)/$(ARTICLE)

test: $(STAMP)/dev ## run the tests
	@$(PY) -m pytest $(ARGS)

fuzz: $(STAMP)/dev ## more than 10,000 examples for whatever reads others' files (make test takes a few)
	@HYPOTHESIS_PROFILE=fuzz $(PY) -m pytest tests/test_fuzz.py $(ARGS)

fixtures: $(STAMP)/dev ## a release's tiny run and bundle, for later versions to load: tests/fixtures/VERSION
	@$(PY) -m tests.fixtures.make

ui: setup ## browse the runs in MLflow, on loopback
	@$(PY) -m training ui --port $(PORT)

screenshots: $(STAMP)/dev ## docs/ui-*.png: MLflow's pages with copies of RUNS="A B …" (all finished ones)
	@$(PY) -m tests.screenshots $(RUNS)

lint: $(STAMP)/dev ## ruff: style and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(STAMP)/dev ## let ruff mend what it can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

types: $(STAMP)/dev ## mypy, strict
	@$(PY) -m mypy

imports: $(STAMP)/dev ## the two walls: runtime | pipeline, four modules | MLflow
	@$(VENV)/bin/lint-imports

audit: $(STAMP)/dev ## known vulnerabilities in what constraints.txt pins; asks PyPI
	@$(PY) -m pip --disable-pip-version-check install --quiet pip-audit
	@# strict: what PyPI does not know, or could not be asked about, is no pass
	@$(VENV)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt 2> $(STAMP)/audit || \
	  { tail -n 1 $(STAMP)/audit; echo 'audit: a vulnerability is known, or PyPI could not be asked; see above'; exit 1; }

check: lint types imports test ## all that .ci/run does

clean: ## remove what was built (runs and the tracker's store stay)
	rm -rf $(STAMP) bundles dist .venv-wheel
