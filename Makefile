# make install   a virtual environment in .venv with everything, pinned by constraints.txt
# make demo      install, then build, train, kill, resume, compare, evaluate and plot on a small real data set
# make test      install, then the test suite

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed

.PHONY: install demo test lint clean

install: $(INSTALLED)

# The C extension of the native loader needs a compiler and libjpeg-turbo's headers; without, the installation goes on.
HEADERS := gcc libjpeg-dev

$(INSTALLED): setup.cfg setup.py constraints.txt pyproject.toml data/region.c data/region.h data/region_decoder.c
	@if ! test -e /usr/include/jpeglib.h && command -v apt-get > /dev/null && test "$$(id -u)" = 0; then \
	    apt-get install -y -qq $(HEADERS) > /dev/null 2>&1 || \
	    { apt-get update -qq && apt-get install -y -qq $(HEADERS); } > /dev/null 2>&1 || true; fi
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dali,bench,plot,dev]'
	@$(VENV)/bin/python -c "from data.native_loader import GET_IT, is_built; is_built() or print('note: --loader native was not built;', GET_IT)"
	touch $(INSTALLED)

demo: install
	$(VENV)/bin/python -m scripts.demo

test: install
	$(VENV)/bin/python -m pytest --numprocesses=auto --maxprocesses=4

lint: install
	$(VENV)/bin/ruff check .

clean:
	rm -rf runs $(VENV) *.egg-info
