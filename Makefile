# `make demo` shows Tandem at work; `make test` checks all of it. Both set up what they need first.

BIN := .venv/bin
FORGE := cd contracts && bin/forge
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command 'make lock'
# Accepted: a validator's freedom of some seconds does not matter against unlock periods and expiries (timestamp); the two
# blocks of assembly say why they are there (assembly). All else that is accepted is marked and explained in the source.
SLITHER := cd contracts && PATH="$$PWD/bin:$$PATH" FOUNDRY_PROFILE=plain FOUNDRY_OUT=out/slither \
  FOUNDRY_CACHE_PATH=cache/slither ../.venv/slither/bin/slither . --exclude timestamp,assembly --fail-low

.PHONY: demo test conformance check fmt bench simulate soak contracts gas docs lock clean setup setup-test

demo: setup  ## Everything on a local chain; KEEP=1 leaves it running
	@$(BIN)/python -m demo.run $(if $(KEEP),--keep)

test: check  ## Format, lint, types, walls, contracts, and every test
	@$(BIN)/python -m pytest -q -n auto --dist worksteal

conformance: setup-test  ## All of onnx's own suite of operators through the on-line path, of which `make test` takes a part
	@ONNX_PARTS=1 $(BIN)/python -m pytest -q --timeout 600 tests/conformance/onnx

check: setup-test  ## All but the tests in Python
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(FORGE) fmt --check
	@$(FORGE) test
	@$(BIN)/python contracts/coverage.py
	@$(SLITHER)

fmt: setup-test  ## Formats Python and Solidity
	@$(BIN)/ruff check --fix --exit-zero
	@$(BIN)/ruff format
	@$(FORGE) fmt

bench: setup-test  ## Times what benchmarks/README.md records
	@scripts/setup.sh peers
	@for each in benchmarks/bench_*.py; do $(BIN)/python $$each || exit 1; done

simulate: setup-test  ## A million tickets, paid on a real contract: luck against its formula, and all books to the wei
	@$(BIN)/python benchmarks/sim_payments.py

soak: setup-test  ## Nodes killed ten times during one job; payments under crashes and outages, EXAMPLES=500
	@TANDEM_CHAOS_KILLS=10 $(BIN)/python -m pytest -q --timeout 600 tests/e2e/test_chaos.py
	@PAYMENT_EXAMPLES=$(or $(EXAMPLES),500) $(BIN)/python -m pytest -q --timeout 0 tests/property/test_payments_machine.py

contracts: setup-test  ## Compiles the contract into the committed artifact
	@$(BIN)/python contracts/build.py

gas: setup-test  ## Measures gas anew, into contracts/snapshots
	@export FORGE_SNAPSHOT_EMIT=true FORGE_SNAPSHOT_CHECK=false && $(FORGE) test --match-contract GasTest

docs: setup-test  ## Writes the generated pages of docs/ anew
	@$(BIN)/python -m scripts.reference

lock: setup-test  ## Compiles requirements/ anew, to the newest versions that fit
	@$(COMPILE) pyproject.toml requirements/build.in --extra cpu -o requirements/cpu.txt
	@$(COMPILE) pyproject.toml requirements/build.in --extra gpu -c requirements/cpu.txt -o requirements/gpu.txt
	@$(COMPILE) pyproject.toml --extra dev -c requirements/cpu.txt -o requirements/dev.txt
	@$(COMPILE) requirements/arrow.in -c requirements/dev.txt -o requirements/arrow.txt
	@$(COMPILE) requirements/slither.in -o requirements/slither.txt
	@$(COMPILE:--universal=--python-platform x86_64-manylinux_2_39) requirements/perf.in -o requirements/perf.txt
	@for each in fastapi mlserver pytriton; do \
	  $(COMPILE) requirements/peers/$$each.in -o requirements/peers/$$each.txt || exit 1; done

clean:  ## Removes what was installed, built and cached
	rm -rf .venv contracts/node_modules tests/players/node_modules contracts/out contracts/cache var dist .mypy_cache .ruff_cache .pytest_cache \
	  .import_linter_cache .hypothesis

setup:
	@scripts/setup.sh

setup-test:
	@scripts/setup.sh test
