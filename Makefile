# Each target is a task of dev.py, which runs without make too: python dev.py TARGET
PYTHON ?= python3

help:
	@$(PYTHON) dev.py

setup demo test fuzz lint bench lock:
	@$(PYTHON) dev.py $@ $(ARGS)

.PHONY: help setup demo test fuzz lint bench lock
