# What a contributor needs. `make check` is what every change must pass; .ci/run and the pre-commit hook call what it calls.
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_OFFLINE = 1
unexport PYTHONDONTWRITEBYTECODE  # every process would compile all libraries anew

# `make check ALL=1` runs the slower tests too, in one go with the others; it is what .ci/run calls.
ALL =

.PHONY: check static lint docs test slow browser format perf lowest

# What needs no second processor runs beside the page's tests, which wait for Chromium most of the time.
check:
	$(MAKE) --output-sync --jobs 2 static $(if $(ALL),browser)
	$(MAKE) test

static: lint docs

lint:
	uv run ruff format --check .
	uv run ruff check .
	uv run lint-imports
	uv run pyright

docs:
	uv run mkdocs build --strict --quiet

test:
	uv run pytest -q $(if $(ALL),-m "not gpu and not browser")

slow:
	uv run pytest -q -m "slow or real"

browser:
	uv run pytest -q -n 0 -m browser tests/commands/app

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

# The oldest libraries that pyproject.toml allows, in an environment of their own; of torch, which is gigabytes, the usual.
lowest:
	uv venv --quiet --clear build/lowest
	grep -oE '"torch(vision)?==[0-9.]+"' pyproject.toml | tr -d '"' > build/lowest/torch.txt
	uv --no-config pip install --quiet --python build/lowest --resolution lowest-direct --override build/lowest/torch.txt .
	uv --no-config pip install --quiet --python build/lowest pytest pytest-xdist beartype hypothesis tensorboard httpx2 prdc
	build/lowest/bin/python -m pytest -q
