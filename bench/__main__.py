"""python -m bench [NAME ...] [--write]: run all benchmarks and write docs/performance.md; or run some, and only print
or also write what they found."""

import json
import re
import sys
import time
from collections.abc import Sequence

from bench import (
    cold,
    cpu,
    dates,
    decode,
    eligibility,
    engines,
    gateway,
    idle,
    intake,
    latency,
    memory,
    poll,
    scale,
    soak,
    start,
    turnover,
)
from bench.measure import ROOT, Benchmark, Table, machine

BENCHMARKS = (
    Benchmark("turnover", "Whole turnovers in virtual time", turnover.run),
    Benchmark("dates", "A turnover of several days, as planned and as it was", dates.run),
    Benchmark("poll", "One look at many devices in flight", poll.run),
    Benchmark("scale", "Several instances in virtual time", scale.run),
    Benchmark("intake", "Taking a request in", intake.run),
    Benchmark("cpu", "CPU time of the decision", cpu.run),
    Benchmark("latency", "Message to wipe call, and proof to notice", latency.run),
    Benchmark("idle", "What an idle app costs", idle.run),
    Benchmark("soak", "Turnovers without end", soak.run),
    Benchmark("engines", "Several engines over one Azurite", engines.run),
    Benchmark("gateway", "Gateway calls a second", gateway.run),
    Benchmark("decode", "Decoding a page of devices", decode.run),
    Benchmark("eligibility", "Graph calls for the facts of devices", eligibility.run),
    Benchmark("memory", "Memory while reading a fleet", memory.run),
    Benchmark("cold", "Loading the app", cold.run),
    Benchmark("start", "Process start to the first message handled", start.run),
)
PAGE = ROOT / "docs" / "performance.md"
PICTURE = PAGE.with_name("turnover.svg")
JSON = ROOT / ".sandbox" / "bench.json"


def main(names: Sequence[str]) -> None:
    """Ends with an error, before anything is measured, for an unknown name or a page that has not every block."""
    write, names = "--write" in names or not names, [name for name in names if name != "--write"]
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
    if not write:
        print("Nothing was written.")
        return
    _write(about, tables)
    print(f"Written: {PAGE.relative_to(ROOT)}, {JSON.relative_to(ROOT)}")


def _write(about: dict[str, str], tables: dict[str, Table]) -> None:
    page = PAGE.read_text("utf-8")  # again: it may have been edited while we measured
    measured = f"Measured {about['date']}, {about['load']}."
    blocks = {name: f"{table.markdown()}\n\n{measured}" for name, table in tables.items()} | {"machine": _about(about)}
    for name, text in blocks.items():
        new = f"<!-- bench:{name} -->\n\n{text}\n\n<!-- /bench:{name} -->"
        before, after = _block(name).split(page)
        page = before + new + after
    PAGE.write_text(page, "utf-8")
    JSON.parent.mkdir(exist_ok=True)
    figures = {
        name: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for name, table in tables.items()
    }
    known = json.loads(JSON.read_text("utf-8"))["benchmarks"] if JSON.exists() else {}
    JSON.write_text(json.dumps({"about": about, "benchmarks": known | figures}, indent=2) + "\n", "utf-8")
    if "turnover" in tables:
        PICTURE.write_text(turnover.picture(tables["turnover"]), "utf-8")


def _block(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- bench:{name} -->.*?<!-- /bench:{name} -->", re.DOTALL)


def _about(about: dict[str, str]) -> str:
    return "\n".join(f"- {name.capitalize()}: {value}" for name, value in about.items())


if __name__ == "__main__":
    main(sys.argv[1:])
