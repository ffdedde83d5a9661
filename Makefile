# Two commands on a fresh clone do everything, set-up included: `make demo` and `make test`.
# They need python3 (>= 3.11), make, and a package registry.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := demo-output

.PHONY: demo test lint types pytest fuzz format golden figures tables editors clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py $(DEMO)

test: lint types pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright

pytest: $(STAMP)
	$(BIN)/pytest -n auto

# The properties again, on FUZZ times as many examples as usual, chosen anew, within 6 GB: minutes, not for CI.
fuzz: $(STAMP)
	ulimit -v 6000000; FUZZ=$${FUZZ:-20} $(BIN)/pytest tests/property/test_hostile_text.py tests/property/test_laws.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Rewrite the expected outputs in tests/golden from what the code prints now; read the diff before you commit it.
golden: $(STAMP)
	$(BIN)/pytest tests/golden tests/docs --update-golden

# The picture that the README shows.
figures: $(STAMP)
	$(BIN)/attnc show longnet -p 'segments=[16,32,64]' -p 'dilations=[1,2,4]' --heads 4 -o docs/longnet.png

# The tables that the README makes of benchmarks/results.
tables: $(STAMP)
	$(BIN)/python benchmarks/tables.py

# The grammar that editors colour texts with, made from the vocabulary.
editors: $(STAMP)
	$(BIN)/python -m attnlang.pattern.textmate editors/vscode/syntaxes/attn.tmLanguage.json

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist
