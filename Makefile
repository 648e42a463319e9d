# make repro: install, run the pipeline on the sample photographs, print the scores.
# make app:   install, open the laboratory in a browser.
# make test:  install, lint, type checks, the whole test suite.
# make test-fast: the tests that are not marked slow, without lint: for while you work.
# make study-sample: the published comparison of 44 configurations, small, on the sample photographs.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.package
REQUIREMENTS := requirements.txt tests/requirements.txt
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# Small enough for two cores in well under an hour: 64-pixel crops, three epochs that start from the linear solution.
SMALL := --set prepare.size=72 --set prepare.crop=64 --set prepare.views=1 \
	--set train.protocol=fast --set train.warm_start=linear --set protocols.fast.epochs=3

.PHONY: repro app test test-fast lint setup readme study-sample clean
repro: $(READY)
	@dvc repro
	@python -m stages summary

app: $(READY)
	@python -m stages app

test: $(READY) lint
	@python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: $(READY)
	@python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow"

lint: $(READY)
	@ruff check .
	@ruff format --check .
	@mypy

setup: $(READY)

readme: $(READY)
	@python -m benchmarks.readme

study-sample: $(READY)
	@dvc repro --quiet
	@python -m stages study studies/cross_architecture.yaml $(SMALL) --jobs 2 --out docs/cross_architecture

# The library and the stages, importable from anywhere: two seconds, and again only when what they are called changes.
$(READY): pyproject.toml $(INSTALLED)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

$(INSTALLED): $(REQUIREMENTS)
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: there is no $(PYTHON) here; install Python 3.11 or newer, or name yours: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version 2>&1) is too old; Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: this Python cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "installing $(REQUIREMENTS) into $(VENV) (several GB, a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix -r ,$(REQUIREMENTS))
	@touch $(INSTALLED)

clean:
	rm -rf .work .mypy_cache .ruff_cache .pytest_cache .hypothesis
