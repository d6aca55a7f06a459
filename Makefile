# Everything runs in .venv, which `make env` creates; ARGS is passed on: make test ARGS="-k chunked -x"
PYTHON ?= python3
ARGS ?=
PY := .venv/bin/python
CPP = $(shell find csrc tests -name "*.h" -o -name "*.cpp" -o -name "*.cu" -o -name "*.cuh")

.PHONY: help demo env test asan lint format bench docs clean

help:
	@echo "make demo    train a hypernetwork on five tasks, with and without its regulariser, and time it"
	@echo "make test    run the tests"
	@echo "make asan    run the tests of the ops with AddressSanitizer in the extension"
	@echo "make lint    check style; make format mends it"
	@echo "make bench   measure speed and memory against hypnettorch"
	@echo "make docs    build the documentation site in build/docs/html, and check it"
	@echo "make env     create or refresh .venv and build the extension (the others do so too)"
	@echo "make clean   remove .venv and whatever was built; the shared dependencies stay in the cache"

env:
	@$(PYTHON) build_support/environment.py

demo: env
	$(PY) -m hnetfast.examples.split_digits $(ARGS)

# A process a core, file by file; threads that wait leave the cores to the others.
test: env
	OMP_WAIT_POLICY=passive $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

asan: env
	$(PY) build_support/sanitize.py $(ARGS)

lint: env
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run --Werror $(CPP)
	.venv/bin/basedpyright --level error

format: env
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(CPP)
	.venv/bin/ruff check --fix .

bench: env
	$(PY) -m pytest bench $(ARGS)

docs:
	@$(PYTHON) build_support/environment.py --docs
	OMP_WAIT_POLICY=passive $(PY) -m sphinx -W --keep-going -q -j auto -d build/docs/doctrees docs build/docs/html $(ARGS)
	$(PY) docs/check_links.py build/docs/html

clean:
	rm -rf .venv build docs/api/generated dist *.egg-info hnetfast/_C*.so hnetfast/_build_info.json
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
