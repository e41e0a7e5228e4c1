# `make demo` shows Tandem at work; `make test` checks all of it. Both set up what they need first.

BIN := .venv/bin
FORGE := cd contracts && node_modules/.bin/forge
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command 'make lock'

.PHONY: demo test soak check fmt bench contracts docs lock clean setup setup-test

demo: setup  ## Everything on a local chain; KEEP=1 leaves it running
	@$(BIN)/python -m demo.run $(if $(KEEP),--keep)

test: check  ## Format, lint, types, walls, contracts, and every test
	@$(BIN)/python -m pytest -q

soak: setup-test  ## Nodes die by SIGKILL ten times during one job
	@TANDEM_CHAOS_KILLS=10 $(BIN)/python -m pytest -q --timeout 600 tests/e2e/test_chaos.py

check: setup-test  ## All but the tests in Python
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(FORGE) fmt --check
	@$(FORGE) test

fmt: setup-test  ## Formats Python and Solidity
	@$(BIN)/ruff check --fix --exit-zero
	@$(BIN)/ruff format
	@$(FORGE) fmt

bench: setup-test  ## Times what benchmarks/README.md records
	@for each in benchmarks/bench_*.py; do $(BIN)/python $$each || exit 1; done

contracts: setup-test  ## Compiles the contract into the committed artifact
	@$(BIN)/python contracts/build.py

docs: setup-test  ## Writes the generated pages of docs/ anew
	@$(BIN)/python -m scripts.reference

lock: setup-test  ## Compiles requirements/ anew, to the newest versions that fit
	@$(COMPILE) pyproject.toml requirements/build.in --extra cpu -o requirements/cpu.txt
	@$(COMPILE) pyproject.toml requirements/build.in --extra gpu -c requirements/cpu.txt -o requirements/gpu.txt
	@$(COMPILE) pyproject.toml --extra dev -c requirements/cpu.txt -o requirements/dev.txt

clean:  ## Removes what was installed, built and cached
	rm -rf .venv contracts/node_modules contracts/out contracts/cache var dist .mypy_cache .ruff_cache .pytest_cache \
	  .import_linter_cache .hypothesis

setup:
	@scripts/setup.sh

setup-test:
	@scripts/setup.sh test
