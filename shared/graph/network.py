"""How Microsoft Graph is reached: directly or through a proxy, and whose certificates are trusted.

As httpx reads the usual environment variables (https://www.python-httpx.org/environment_variables): HTTPS_PROXY,
ALL_PROXY and NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR; also REQUESTS_CA_BUNDLE, which the sign-in libraries know.
A proxy is only asked for a tunnel: it learns Graph's host name and sees no token, unless it is trusted to break TLS.
"""

import os
import ssl
from urllib.request import getproxies, proxy_bypass

import httpx

from shared.graph.endpoint import EndpointError, GraphEndpoint


def transport_for(endpoint: GraphEndpoint) -> httpx.AsyncHTTPTransport:
    """Give the way to this Graph. One on this machine is reached directly, whatever the environment says.

    Raises EndpointError where the environment names a proxy or a certificate file that cannot be used; the message
    never holds the proxy's address, which may carry a password.
    """
    if endpoint.loopback:
        return httpx.AsyncHTTPTransport(trust_env=False)
    return httpx.AsyncHTTPTransport(verify=_trusted(), proxy=proxy_for(endpoint), trust_env=False)


def proxy_for(endpoint: GraphEndpoint) -> httpx.Proxy | None:
    """Give the proxy for this Graph; None where it is reached directly. Raises EndpointError for an unusable one."""
    proxies = getproxies()
    address = proxies.get("https") or proxies.get("all")
    if endpoint.loopback or not address or proxy_bypass(endpoint.host):
        return None
    try:
        return httpx.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx.InvalidURL):
        # Without the cause: its message quotes the address.
        raise EndpointError(
            "The proxy that HTTPS_PROXY or ALL_PROXY names cannot be used. Give it as http://HOST:PORT or "
            "http://USER:PASSWORD@HOST:PORT, with special characters percent-encoded."
        ) from None


def _trusted() -> ssl.SSLContext:
    own = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    bundle = None if own else os.environ.get("REQUESTS_CA_BUNDLE")
    try:
        return ssl.create_default_context(cafile=bundle) if bundle else httpx.create_ssl_context()
    except OSError as error:
        raise EndpointError(
            f"The certificates in {own or bundle} cannot be read ({error.strerror or error}). SSL_CERT_FILE and "
            "REQUESTS_CA_BUNDLE name a file of PEM certificates."
        ) from error
