VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup study results test test-large rtl coverage api conform exhaustive check clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $(STAMP)

study: setup
	$(BIN)/hwsim run quickstart

results: setup
	$(BIN)/python -c 'from hwsim.studies.references import studies_page; print(studies_page(), end="")' > configs/studies/README.md
	$(BIN)/hwsim results

test: setup
	$(BIN)/python -m pytest -m "not large and not rtl" -n auto --dist loadfile

test-large: setup
	$(BIN)/python -m pytest -m large

rtl: setup
	$(BIN)/python -m pytest -m rtl tests/rtl

coverage: setup
	$(BIN)/python -m pytest -m "not large and not rtl" -n auto --dist loadfile --cov --cov-report=term --cov-report=html:build/coverage

api: setup
	$(BIN)/python -m pdoc --docformat google --math --output-directory build/api hwsim $(addprefix hwsim.,formats macs emulator budgets training models studies)

conform: setup
	$(BIN)/hwsim conform --output docs

exhaustive: setup
	$(BIN)/hwsim conform --exhaustive --output docs

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
