# What a contributor needs. `make check` is what every change must pass; .ci/run and the pre-commit hook call what it calls.
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_OFFLINE = 1
unexport PYTHONDONTWRITEBYTECODE  # every process would compile all libraries anew

.PHONY: check lint docs test slow format perf

check: lint docs test

lint:
	uv run ruff format --check .
	uv run ruff check .
	uv run lint-imports
	uv run pyright

docs:
	uv run mkdocs build --strict --quiet

test:
	uv run pytest -q

slow:
	uv run pytest -q -m "slow or real"
	uv run pytest -q -n 0 -m browser

format:
	uv run ruff format .
	uv run ruff check --fix .

perf:
	uv run python perf/moe.py --quick
	uv run python perf/attention.py --quick
	uv run python perf/data.py --quick
	uv run python perf/step.py --quick
	uv run python perf/gpu.py --quick
	uv run python perf/drawing.py --quick
	uv run python perf/cache.py --quick
	uv run python perf/scores.py --quick
	uv run python perf/fuse.py --quick
	uv run python perf/imports.py --quick
