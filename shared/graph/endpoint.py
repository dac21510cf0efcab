"""Where Microsoft Graph is: one setting gives address, token scope and sign-in authority."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class EndpointError(ValueError):
    """The settings name no Graph that Turnaround may speak to, or no way there. The message is for people."""


@dataclass(frozen=True, slots=True)
class GraphEndpoint:
    """One Microsoft Graph. Source: learn.microsoft.com/graph/deployments (national clouds)."""

    origin: str
    """Scheme, host and port, without a path and without a trailing slash."""
    scope: str
    authority: str
    """Where tokens come from; empty on loopback, where none is asked for."""
    loopback: bool = False

    @property
    def host(self) -> str:
        """Host name alone, to which tokens may be sent."""
        return urlsplit(self.origin).hostname or ""

    @classmethod
    def parse(cls, setting: str) -> Self:
        """Read `global`, `usgov`, `usgovdod`, or the address of a Graph on this machine (`http://127.0.0.1:PORT`).

        Raises EndpointError for anything else: a token for Graph must never go to another host.
        """
        name = setting.strip()
        clouds = {
            "global": ("https://graph.microsoft.com", "https://login.microsoftonline.com"),
            "usgov": ("https://graph.microsoft.us", "https://login.microsoftonline.us"),
            "usgovdod": ("https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
        }
        if name.lower() in clouds:
            origin, authority = clouds[name.lower()]
            return cls(origin, f"{origin}/.default", authority)
        if name.lower() == "china":
            raise EndpointError(
                "Graph endpoint 'china': Windows Autopilot does not exist in the cloud operated by 21Vianet, so none "
                "of its devices can be returned by Autopilot Reset. Use global, usgov or usgovdod."
            )
        return cls._on_loopback(name)

    @classmethod
    def _on_loopback(cls, address: str) -> Self:
        try:
            url = urlsplit(address)
            port = f":{url.port}" if url.port is not None else ""
        except ValueError as error:
            raise EndpointError(f"Graph endpoint {address!r} is not an address: {error}.") from error
        if url.scheme not in ("http", "https") or not url.hostname:
            raise EndpointError(
                f"Graph endpoint {address!r} is not known. Use global, usgov or usgovdod, or http://127.0.0.1:PORT."
            )
        if url.hostname not in _LOOPBACK_HOSTS:
            raise EndpointError(
                f"Graph endpoint {address!r} is not on this machine. An address may only name 127.0.0.1, ::1 or "
                "localhost; for Microsoft's Graph use global, usgov or usgovdod."
            )
        if url.path.strip("/") or url.query or url.fragment or url.username is not None or url.password is not None:
            raise EndpointError(f"Graph endpoint {address!r}: give scheme, host and port only; /v1.0 is added.")
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        origin = f"{url.scheme}://{host}{port}"
        # A scope that no real sign-in service grants: a token for Microsoft's Graph cannot end up at a local server.
        return cls(origin, f"{origin}/.default", "", loopback=True)
