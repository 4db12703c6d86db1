# make install   a virtual environment in .venv with everything, pinned by constraints.txt
# make demo      install, then build, train, kill, resume, compare, evaluate and plot on a small real data set
# make test      install, then the test suite

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed

.PHONY: install demo test lint clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg constraints.txt pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dali,bench,plot,dev]'
	touch $(INSTALLED)

demo: install
	$(VENV)/bin/python -m scripts.demo

test: install
	$(VENV)/bin/python -m pytest

lint: install
	$(VENV)/bin/ruff check .

clean:
	rm -rf runs $(VENV) *.egg-info
