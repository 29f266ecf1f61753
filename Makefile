# Two commands: `make serve` and `make test`. Both install what is missing first.
.PHONY: serve test test-fast test-kvm lint bench

serve:
	@scripts/setup
	@exec .venv/bin/casemate serve

# What has no machines waits more than it works, so four at a time; machines take all processors, one after the other.
test: test-fast
	.venv/bin/pytest -m vm --durations=25 --durations-min=5

test-fast: lint
	.venv/bin/pytest -m 'not vm' -n 4 --dist worksteal

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
	@set -e; for measure in create commands many transfer idle storage keys audit flood lives backing cycles; do \
	  echo "== $$measure"; .venv/bin/python -m bench.$$measure; done
