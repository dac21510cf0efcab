"""What a device costs against the size of the fleet, as a picture (SVG): both axes are logarithmic."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, log10
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 190, 40, 50
COLOURS = ("#0b6e99", "#b3541e", "#4c7a34", "#7a3e8e", "#8a6d00", "#555555")


def svg(title: str, across: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """The lines, by their names: points of (x, y), all above zero."""
    points = [point for line in lines.values() for point in line]
    x, y = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT), _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    return "\n".join([*_frame(title, across, x, y), *_lines(lines, x, y), "</svg>", ""])


class _Axis:
    """Where a number lies between two edges of the picture."""

    def __init__(self, numbers: Sequence[float], start: int, end: int) -> None:
        self.first, self.last = floor(log10(min(numbers))), ceil(log10(max(numbers)))
        self._start, self._step = start, (end - start) / max(1, self.last - self.first)

    def at(self, number: float) -> float:
        return self._start + (log10(number) - self.first) * self._step

    def ticks(self) -> Iterator[tuple[float, str]]:
        for power in range(self.first, self.last + 1):
            yield self.at(10**power), f"{10**power:,}" if power >= 0 else f"{10**power:g}"


def _frame(title: str, across: str, x: _Axis, y: _Axis) -> Iterator[str]:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    yield _text(LEFT, TOP - 18, title, size=14)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, across, anchor="middle")
    for at, label in x.ticks():
        yield _rule(at, TOP, at, HEIGHT - BOTTOM)
        yield _text(at, HEIGHT - BOTTOM + 16, label, anchor="middle")
    for at, label in y.ticks():
        yield _rule(LEFT, at, WIDTH - RIGHT, at)
        yield _text(LEFT - 6, at + 4, label, anchor="end")


def _lines(lines: Mapping[str, Sequence[tuple[float, float]]], x: _Axis, y: _Axis) -> Iterator[str]:
    places, lowest = dict[str, float](), 0.0
    for name in sorted(
        lines, key=lambda name: y.at(lines[name][-1][1])
    ):  # from the top, so that no label hides another
        lowest = places[name] = max(lowest + 15, y.at(lines[name][-1][1]) + 4)
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        path = " ".join(f"{x.at(across):.1f},{y.at(up):.1f}" for across, up in line)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for across, up in line:
            yield f'<circle cx="{x.at(across):.1f}" cy="{y.at(up):.1f}" r="3" fill="{colour}"/>'
        yield _text(WIDTH - RIGHT + 10, places[name], f"{name}: {line[-1][1]:.3g}", colour=colour)


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", colour: str = "#222222") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
