# Each target is a task of dev.py, which runs without make too: python dev.py TARGET
PYTHON ?= python3

help:
	@$(PYTHON) dev.py

setup demo test fuzz mutate lint bench lock:
	@$(PYTHON) dev.py $@ $(ARGS)

FIRST ?= 1
SEEDS ?= 1000
SIZE ?= 8

simulate:
	@$(PYTHON) dev.py $@ --first $(FIRST) --seeds $(SEEDS) --size $(SIZE) $(ARGS)

.PHONY: help setup demo test fuzz simulate mutate lint bench lock
