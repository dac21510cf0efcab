"""Benchmarks: what Turnaround costs, measured on this machine beside something to compare it with.

`python -m bench` runs them all and writes docs/performance.md; `python -m bench NAME ...` runs some and only prints.
Nothing imports this package, and it is not deployed.
"""
