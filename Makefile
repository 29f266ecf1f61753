# Two commands: `make serve` and `make test`. Both install what is missing first; `make help` lists the others.
.PHONY: serve help fmt lint test test-fast test-busy test-kvm coverage bench

FAST = -m 'not vm' -n 5 --dist worksteal
# Tests start hundreds of programs of this project: without compiled files, each compiles all that it imports.
export PYTHONDONTWRITEBYTECODE =

serve: ## start the server
	@scripts/setup
	@exec .venv/bin/casemate serve

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1:/p' $(firstword $(MAKEFILE_LIST)) | while IFS=: read -r target text; do printf '  %-10s %s\n' "$$target" "$$text"; done

fmt: ## sort the imports and format the code
	@scripts/setup dev
	.venv/bin/ruff check --select I --fix .
	.venv/bin/ruff format .

lint: ## check style, types, layers, spelling and lock files
	@scripts/setup dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/codespell
	.venv/bin/python scripts/check_locks.py
	.venv/bin/pyright
	.venv/bin/lint-imports

# What has no machines waits more than it works, so five at a time; what has them, three at a time (tests/beside.py says
# which). The emulated host is alone: what it works with must not change meanwhile.
test: lint coverage ## run everything
	.venv/bin/pytest -m vm -n 3 --dist loadfile --ignore=tests/test_kvm_host.py --durations=25 --durations-min=5
	.venv/bin/pytest tests/test_kvm_host.py

coverage: ## run what needs no virtual machines and measure branch coverage: htmlcov/index.html; the floor is in pyproject.toml
	@scripts/setup dev
	.venv/bin/coverage erase
	.venv/bin/python -m pytest -p tests.covered $(FAST)
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage html --quiet --fail-under=0
	@echo "Branch coverage in per cent:"; .venv/bin/coverage report --format=total

ifeq ($(strip $(ARGS)),)
test-fast: lint ## run what needs no virtual machines; ARGS="tests/auth -k key" runs only that, without lint
	.venv/bin/pytest $(FAST)
else
test-fast:
	@scripts/setup dev
	.venv/bin/pytest -m 'not vm' $(ARGS)
endif

# No test measures the machine: they pass beside four processes that take all of it.
test-busy: ## run what needs no virtual machines while other programs take all processors
	@command -v stress-ng >/dev/null || { echo "Run: apt-get install -y --no-install-recommends stress-ng" >&2; exit 1; }
	@stress-ng --cpu 4 --quiet & trap "kill $$!" EXIT INT TERM; $(MAKE) --no-print-directory test-fast

# The tests marked `kvm` on real KVM, in an emulated host; TESTS names others. CLOUD_HYPERVISOR_BIN adds that driver.
test-kvm: ## run what needs KVM, in an emulated host
	@scripts/setup dev
	.venv/bin/python -m tests.kvm_host $(TESTS)

bench: ## make the figures of docs/benchmarks.md
	@scripts/setup dev
	@set -e; for measure in create commands execs sockets languages many parallel forks wedged transfer uploads network taps egress ports idle storage keys audit flood lives backing cycles archives outputs watch volumes workflow; do \
	  echo "== $$measure"; .venv/bin/python -m bench.$$measure; done
