# Two commands: `make serve` and `make test`. Both install what is missing first.
.PHONY: serve test test-fast lint bench

serve:
	@scripts/setup
	@exec .venv/bin/casemate serve

test: lint
	.venv/bin/pytest

test-fast: lint
	.venv/bin/pytest -m 'not vm'

lint:
	@scripts/setup dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

bench:
	@scripts/setup dev
	@set -e; for measure in create commands many transfer idle storage; do \
	  echo "== $$measure"; .venv/bin/python -m bench.$$measure; done
