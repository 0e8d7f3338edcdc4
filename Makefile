# Two commands for a fresh machine: `make up` and `make test`.
# Each installs what it needs into .venv and .tools; nothing else is touched but,
# for the tests, Debian's PostgreSQL where it is missing and can be installed.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
# A test that starts ten processes can miss a deadline on a busy machine: it gets one
# more try, and stands in the summary as RERUN, which is a bug to mend. Three at once on
# two cores: much of what they do is to wait.
PYTEST ?= $(BIN)/pytest -n 3 --dist loadgroup --reruns 1 -rsR

.PHONY: up down test test-kill test-machines test-surface scan lint unit tools bench clean

up: .venv/up
	$(BIN)/bud up

down: .venv/up
	$(BIN)/bud down

test: lint tools unit

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: .venv/test
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(PYTEST)

# Law 10 at every write point of an apply, where `make test` takes some.
test-kill: .venv/test
	BUD_KILL_STRIDE=1 $(PYTEST) --dist load tests/e2e/test_kill.py \
		tests/reconciler/targets/local/test_kill.py \
		tests/reconciler/targets/kubernetes/test_line.py

# Made-up requests to all that the gateway serves: minutes, where `make test` takes seconds.
test-surface: .venv/test
	BUD_EXAMPLES=500 $(BIN)/pytest tests/gateway/test_openapi.py --timeout 3600

# A cluster of machines from nothing to nothing, by Ansible over real SSH: minutes.
test-machines: .venv/test
	BUD_MACHINES=1 $(PYTEST) tests/reconciler/targets/ansible

# The Terraform modules, by the policies that security teams run. In a venv of its own:
# checkov pins older versions of what bud uses.
scan: .tools/checkov/done
	.tools/checkov/bin/python .tools/checkov/bin/checkov --config-file tools/checkov.yaml

.tools/checkov/done: .venv/uv tools/checkov.yaml
	$(PYTHON) -m venv .tools/checkov
	$(BIN)/uv pip install --quiet --python .tools/checkov/bin/python checkov==3.2.459
	touch $@

tools:
	tools/debian.sh
	tools/javascript.sh
	tools/build.sh kubernetes clusters forge

bench: .venv/test
	for file in benchmarks/*.py; do $(BIN)/python $$file; done

.venv/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	touch $@

.venv/up: .venv/uv pyproject.toml constraints.txt
	$(UV) --editable '.[local]'
	touch $@

.venv/test: .venv/uv pyproject.toml constraints.txt
	$(UV) --editable '.[local,dev]'
	touch $@

clean:
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis
