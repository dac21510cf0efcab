"""Routes of HTTP triggers, in the syntax of ASP.NET Core that Azure Functions takes. Pure.

https://learn.microsoft.com/aspnet/core/fundamentals/routing#route-constraints
"""

import re
from dataclasses import dataclass

CONSTRAINTS = {
    "int": r"-?\d+",
    "long": r"-?\d+",
    "guid": r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}",
    "alpha": r"[A-Za-z]+",
    "bool": r"(?i:true|false)",
    "decimal": r"-?\d+(?:\.\d+)?",
    "double": r"-?\d+(?:\.\d+)?",
    "float": r"-?\d+(?:\.\d+)?",
    "required": r"[^/]+",
}
PARAMETER = re.compile(r"\{(\*{0,2})(\w+)(?::([^}?=]+))?(\?)?\}")


class RouteError(ValueError):
    """The route cannot be read; the message says which part."""


@dataclass(frozen=True)
class Route:
    """A route that can be matched; `rank` puts the more specific of two first."""

    template: str
    pattern: re.Pattern[str]
    rank: tuple[int, ...]

    def match(self, path: str) -> dict[str, str] | None:
        """The route's parameters when it is that of `path`, which is decoded and starts with /; None otherwise."""
        found = self.pattern.fullmatch(path)
        return None if found is None else {key: value for key, value in found.groupdict().items() if value}


def parse(template: str, prefix: str) -> Route:
    """Read a route under the app's route prefix; raises RouteError."""
    segments = [part for part in f"{prefix}/{template}".split("/") if part]
    pattern, rank = "", []
    for number, segment in enumerate(segments):
        parameters = list(PARAMETER.finditer(segment))
        if re.search(r"[{}]", PARAMETER.sub("", segment)):
            raise RouteError(f"{segment!r} in the route {template!r} cannot be read")
        if any(found[1] for found in parameters) and number < len(segments) - 1:
            raise RouteError(f"{segment!r} in the route {template!r} takes all that follows, so it must be the last")
        text, end, optional = "", 0, False
        for found in parameters:
            text += re.escape(segment[end : found.start()]) + _group(found, template)
            end = found.end()
            optional = bool(found[4] or found[1])
        text += re.escape(segment[end:])
        pattern += f"(?:/{text})?" if optional else f"/{text}"
        rank.append(0 if not parameters else 3 if parameters[0][1] else 1 if parameters[0][3] else 2)
    try:
        return Route(template, re.compile(pattern + "/?", re.IGNORECASE), tuple(rank))
    except re.error as error:
        raise RouteError(f"the route {template!r} cannot be read: {error}") from error


def _group(found: re.Match[str], template: str) -> str:
    if found[1]:
        return f"(?P<{found[2]}>.*)"
    constraints = [CONSTRAINTS.get(name) for name in (found[3] or "required").split(":")]
    if None in constraints:
        raise RouteError(f"the route {template!r} has a constraint that this host does not model: {found[3]}")
    *checks, last = (text for text in constraints if text)
    return "".join(f"(?={check}(?:/|$))" for check in checks) + f"(?P<{found[2]}>{last})"
