# What a contributor needs. `make check` is what every change must pass.
export HF_HUB_OFFLINE = 1

.PHONY: check format test slow bench

check:
	uv run ruff format --check .
	uv run ruff check .
	uv run lint-imports
	uv run pyright
	uv run pytest -q

format:
	uv run ruff format .
	uv run ruff check --fix .

test:
	uv run pytest -q

slow:
	uv run pytest -q -m "slow or real"

bench:
	uv run python benchmarks/moe.py --quick
	uv run python benchmarks/attention.py --quick
	uv run python benchmarks/data.py --quick
	uv run python benchmarks/step.py --quick
	uv run python benchmarks/cache.py --quick
	uv run python benchmarks/scores.py --quick
