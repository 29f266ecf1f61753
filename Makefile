# Two commands: `make serve` and `make test`. Both install what is missing first.
.PHONY: serve test test-fast test-busy test-kvm lint bench

serve:
	@scripts/setup
	@exec .venv/bin/casemate serve

# What has no machines waits more than it works, so four at a time; what has them, three at a time (tests/beside.py says
# which). The emulated host is alone: what it works with must not change meanwhile.
test: test-fast
	.venv/bin/pytest -m vm -n 3 --dist loadfile --ignore=tests/test_kvm_host.py --durations=25 --durations-min=5
	.venv/bin/pytest tests/test_kvm_host.py

test-fast: lint
	.venv/bin/pytest -m 'not vm' -n 4 --dist worksteal

# No test measures the machine: they pass beside four processes that take all of it.
test-busy:
	@command -v stress-ng >/dev/null || { echo "Run: apt-get install -y --no-install-recommends stress-ng" >&2; exit 1; }
	@stress-ng --cpu 4 --quiet & trap "kill $$!" EXIT INT TERM; $(MAKE) --no-print-directory test-fast

# The tests marked `kvm` on real KVM, in an emulated host; TESTS names others. CLOUD_HYPERVISOR_BIN adds that driver.
test-kvm:
	@scripts/setup dev
	.venv/bin/python -m tests.kvm_host $(TESTS)

lint:
	@scripts/setup dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

bench:
	@scripts/setup dev
	@set -e; for measure in create commands many parallel forks wedged transfer idle storage keys audit flood lives backing cycles; do \
	  echo "== $$measure"; .venv/bin/python -m bench.$$measure; done
