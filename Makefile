# `make` alone prints the manual below.

# Small models train ten times slower when several threads share two cores.
export OMP_NUM_THREADS := 1

RUN    := .venv/bin
QUICK  := not slow and not gpu
ALL    := $(if $(wildcard /dev/nvidiactl),,not gpu)

# Runs .ci/bootstrap.py with the first Python that works.
define BOOTSTRAP
for python in "$(PYTHON)" .venv/bin/python python3.11 python3.12 python3.13 python3 python; do \
  if [ -n "$$python" ] && "$$python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then \
    exec "$$python" -I -S .ci/bootstrap.py $(1); \
  fi; \
done; \
echo "mlops setup: no Python was found on PATH." >&2; \
echo "  What to do: install Python 3.11 (Debian, Ubuntu: apt install python3.11), or say where it is: make PYTHON=/path/to/python3.11" >&2; \
exit 1
endef

.PHONY: help
help:
	@echo 'make demo          train on real digits, monitored, and make the report   (first time minutes, then seconds)'
	@echo 'make test          everything that is checked: lint, all tests, other Pythons'
	@echo 'make test-quick    the tests that take under a minute together'
	@echo 'make monasca       a whole Monasca on this machine to play with, until Ctrl-C (first time minutes, then seconds)'
	@echo 'make monasca-stop  ends it, from another shell'
	@echo 'make lint          ruff, mypy, import-linter, notebooks without output'
	@echo 'make bench         what logging costs, beside others; one alone: make bench ONLY=peers'
	@echo 'make test-pythons  the quick tests on every other supported Python that is found, without torch'
	@echo 'make dashboards    write the Grafana dashboards in k8s/dashboards from their code'
	@echo 'make lock          write uv.lock from pyproject.toml; newer versions: make lock UPGRADE=1'
	@echo 'make env           make .venv or bring it up to date; all of the above but lock do that first'
	@echo 'make clean         remove .venv and what the tools left; runs/ stays'
	@echo
	@echo 'PYTHON=/path/to/python3.11   the Python that .venv is made with (3.11 to 3.13)'
	@echo 'PIP_FIND_LINKS=FOLDER        your own wheels, for example of torch; PIP_INDEX_URL, HTTPS_PROXY and'
	@echo '                             SSL_CERT_FILE are heeded too'
	@echo 'UV_TORCH_BACKEND=cpu         the flavour of torch, where it is not to be the one for this machine'

.PHONY: env
env:
	@$(call BOOTSTRAP,env)

.PHONY: demo
demo: env
	@$(RUN)/mlops notebook notebooks/01_train.ipynb --name digits

.PHONY: lint
lint: env
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy
	$(RUN)/lint-imports --no-logo
	$(RUN)/nbstripout --verify $(wildcard notebooks/*.ipynb tests/*/*.ipynb)

.PHONY: test
test: lint
	$(RUN)/python -m pytest $(if $(ALL),-m '$(ALL)')
	@$(MAKE) --no-print-directory test-pythons

.PHONY: test-quick
test-quick: env
	$(RUN)/python -m pytest -n auto -m '$(QUICK)'

.PHONY: test-pythons
test-pythons: env
	@$(call BOOTSTRAP,pythons -- -q -n auto -m '$(QUICK) and not torch')

.PHONY: monasca
monasca: env
	@$(RUN)/python -m tests.testbed.monasca

.PHONY: monasca-stop
monasca-stop: env
	@$(RUN)/python -m tests.testbed.monasca stop

.PHONY: bench
bench: env
	@$(RUN)/python -m benchmarks $(ONLY)

.PHONY: dashboards
dashboards: env
	@$(RUN)/python -m k8s.dashboards.builder

.PHONY: lock
lock:
	@$(call BOOTSTRAP,uv lock $(if $(UPGRADE),--upgrade))

.PHONY: clean
clean:
	rm -rf .venv .uv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
