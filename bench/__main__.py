"""python -m bench [NAME ...]: run all benchmarks and write docs/performance.md, or run some and only print."""

import json
import re
import sys
import time
from collections.abc import Sequence

from bench import cold, decode, eligibility, gateway, memory
from bench.measure import ROOT, Benchmark, Table, machine

BENCHMARKS = (
    Benchmark("gateway", "Gateway calls a second", gateway.run),
    Benchmark("decode", "Decoding a page of devices", decode.run),
    Benchmark("eligibility", "Graph calls for the facts of devices", eligibility.run),
    Benchmark("memory", "Memory while reading a fleet", memory.run),
    Benchmark("cold", "Loading the app", cold.run),
)
PAGE = ROOT / "docs" / "performance.md"
JSON = ROOT / ".sandbox" / "bench.json"


def main(names: Sequence[str]) -> None:
    """Ends with an error, before anything is measured, for an unknown name or a page that has not every block."""
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(known)}.")
    page = PAGE.read_text("utf-8")
    if missing := [name for name in ("machine", *known) if not _block(name).search(page)]:
        sys.exit(f"{PAGE.name} has no block for {', '.join(missing)}: <!-- bench:NAME --> and <!-- /bench:NAME -->.")
    about = machine()
    print(_about(about), flush=True)
    began, tables = time.monotonic(), dict[str, Table]()
    for number, name in enumerate(names or known, start=1):
        print(f"\n[{number}/{len(names or known)}] {known[name].title} ...", flush=True)
        started = time.monotonic()
        tables[name] = known[name].run()
        print(f"{tables[name].markdown()}\n({time.monotonic() - started:.0f} s)", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s in all.")
    if names:
        print("Only some were run: nothing was written.")
        return
    _write(about, tables)
    print(f"Written: {PAGE.relative_to(ROOT)}, {JSON.relative_to(ROOT)}")


def _write(about: dict[str, str], tables: dict[str, Table]) -> None:
    page = PAGE.read_text("utf-8")  # again: it may have been edited while we measured
    blocks = {"machine": _about(about)} | {name: table.markdown() for name, table in tables.items()}
    for name, text in blocks.items():
        new = f"<!-- bench:{name} -->\n\n{text}\n\n<!-- /bench:{name} -->"
        before, after = _block(name).split(page)
        page = before + new + after
    PAGE.write_text(page, "utf-8")
    JSON.parent.mkdir(exist_ok=True)
    figures = {
        name: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for name, table in tables.items()
    }
    JSON.write_text(json.dumps({"about": about, "benchmarks": figures}, indent=2) + "\n", "utf-8")


def _block(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- bench:{name} -->.*?<!-- /bench:{name} -->", re.DOTALL)


def _about(about: dict[str, str]) -> str:
    return "\n".join(f"- {name.capitalize()}: {value}" for name, value in about.items())


if __name__ == "__main__":
    main(sys.argv[1:])
