# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check matrix storm bench browser screenshots format setup constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    real agent traffic through the whole pipeline, about half a minute after set-up"
	@echo "make test    everything that checks the project: format, lint, types, import contracts, tests"
	@echo "make check   the same without the tests"
	@echo "make matrix  the capture of PydanticAI against its oldest supported version, one between, and the current one"
	@echo "make storm   kill and freeze applications, workers and Redis under load, with an oracle that counts; about 15 minutes"
	@echo "make browser the web page in a real browser: needs a Chromium (apt-get install chromium); make screenshots renews docs/images"
	@echo "make bench   measure, with the peers beside us, and write docs/benchmarks.md"

demo: $(STAMP)
	@$(BIN)/python -m examples.deckster.demo $(DEMO_ARGS)

test: check
	$(BIN)/pytest -q -n 2 --dist loadgroup

# What watches PydanticAI stands on a few of its functions: from the oldest version that `pyproject.toml` allows.
PYDANTIC_AI ?= 2.60.0 2.64.0 2.68.0
MATRIX := .venv-matrix
matrix:
	@$(PYTHON) -m venv $(MATRIX)
	@grep -Ev '^(pydantic-ai-slim|pydantic-graph)==' constraints.txt > $(MATRIX)/constraints.txt
	@set -e; for version in $(PYDANTIC_AI); do echo "pydantic-ai $$version"; \
		$(MATRIX)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(MATRIX)/constraints.txt \
			--editable '.[dev]' "pydantic-ai-slim==$$version"; \
		$(MATRIX)/bin/pytest -q tests/core/test_pydantic_ai.py tests/core/test_pydantic_ai_doors.py tests/providers examples/deckster; done

# Kill, freeze and roll back, for minutes, with an oracle; then the same with each guard removed, which must be caught.
# First over the applications, then over the workers; there also with two price books at once, behind a FLUSHALL, and
# with streams that are trimmed, with entries that are mostly bad; then over replays.
SEED ?= 1
STORM_SECONDS ?= 120
STORM = cd tests && PYTHONPATH=. ../$(BIN)/python -m storms.producing --seed $(SEED)
CONSUMING_STORM = cd tests && PYTHONPATH=. ../$(BIN)/python -m storms.consuming --seed $(SEED)
OTHER_SERVERS = $$(cd tests && ../$(BIN)/python -c 'import support; print(*support.server_kinds()[1:])')
storm: $(STAMP)
	@$(STORM) --seconds $(STORM_SECONDS)
	@set -e; for server in $(OTHER_SERVERS); do ($(STORM) --seconds 40 --server $$server); done
	@for variant in no_fence high_water first_gap parents_id client_retries; do \
		($(STORM) --seconds 12 --variant $$variant); code=$$?; \
		if [ $$code != 1 ]; then echo "the storm did not catch $$variant"; exit 1; fi; done
	@$(CONSUMING_STORM) --seconds $(STORM_SECONDS)
	@set -e; for server in $(OTHER_SERVERS); do ($(CONSUMING_STORM) --seconds 40 --server $$server); done
	@set -e; for flavour in two_books flushed wrong_type; do ($(CONSUMING_STORM) --seconds 12 --variant $$flavour); done
	@$(CONSUMING_STORM) --seconds 40 --variant trimmed
	@$(CONSUMING_STORM) --seconds 20 --variant malformed
	@cd tests && PYTHONPATH=. ../$(BIN)/python -m storms.replaying --seed $(SEED) --seconds $(STORM_SECONDS)
	@for variant in no_cursor no_gone any_recipe cursor_first maxlen late_validation letters_again early_answer; do \
		($(CONSUMING_STORM) --seconds 6 --variant $$variant); code=$$?; \
		if [ $$code != 1 ]; then echo "the storm did not catch $$variant"; exit 1; fi; done

# Every question of benchmarks/, with the peers beside us; about half an hour on a quiet machine.
bench: $(STAMP)
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@set -e; for question in call agent_run middleware loop_lag throughput counting backlog replaying visible memory backfill dashboard left_open terminal import_time; do \
		.venv-bench/bin/python -m benchmarks.$$question --save > /dev/null; done
	@.venv-bench/bin/python -m benchmarks.write_up benchmarks/results.jsonl > docs/benchmarks.md.new
	@mv docs/benchmarks.md.new docs/benchmarks.md

# The web page in a real, headless browser, with an application that goes on meanwhile.
CHROMIUM := command -v chromium || command -v chromium-browser || command -v google-chrome
browser: $(STAMP)
	@{ $(CHROMIUM); } > /dev/null || { echo "make browser needs a Chromium: apt-get install chromium"; exit 2; }
	$(BIN)/pytest -q tests/browser/in_a_browser.py

screenshots: $(STAMP)
	PYTHONPATH=tests:. $(BIN)/python tests/browser/screenshots.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Sidestream needs Python 3.11 or later; $$($(PYTHON) --version) is here. Say which with: make PYTHON=python3.12 demo"; exit 2; }
	@echo "Setting up .venv (once, about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Exact versions of everything, without any address: refreshed on purpose, never by an install.
constraints:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m pip freeze --exclude-editable | grep '==' > constraints.txt
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-bench $(MATRIX) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
