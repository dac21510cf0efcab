"""Graph through a proxy and behind a certificate authority of one's own, named by the usual environment variables."""

import asyncio
import base64
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.domain.ids import ManagedDeviceId, OrderId
from shared.graph.credential import StaticTokenCredential
from shared.graph.endpoint import EndpointError, GraphEndpoint
from shared.graph.gateway import GraphIntune, Patience
from shared.graph.network import proxy_for, transport_for
from shared.pipeline.ports import AnswerKind, GraphUnavailable, Order

DEVICE = ManagedDeviceId("00000001-1111-2222-3333-444444444444")
GLOBAL = GraphEndpoint.parse("global")
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of this machine's own settings."""
    for name in (*VARIABLES, "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# A certificate authority


@dataclass
class Authority:
    """The file with its certificate, and the server side of TLS for Graph's name."""

    file: Path
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The school's own")])
    now = datetime.now(UTC)
    key, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        begun = x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(public)
        begun = begun.serial_number(x509.random_serial_number())
        return begun.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))

    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    root = builder(name, key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    root = root.add_extension(usage, critical=True).add_extension(identifier, critical=False)
    graph = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, GLOBAL.host)])
    leaf = builder(graph, own.public_key()).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(GLOBAL.host)]), critical=False
    )
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )
    pem = serialization.Encoding.PEM
    root_file, leaf_file = folder / "ca.pem", folder / "leaf.pem"
    root_file.write_bytes(root.sign(key, hashes.SHA256()).public_bytes(pem))
    secret = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    leaf_file.write_bytes(leaf.sign(key, hashes.SHA256()).public_bytes(pem) + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf_file)
    return Authority(root_file, server)


# A network of two servers


@dataclass
class Network:
    """A Graph that knows TLS and one device, and a proxy that leads every tunnel to it."""

    port: int = 0
    """The proxy's."""
    tunnels: list[str] = field(default_factory=list)
    """What the proxy was asked, headers and all."""
    asked: list[bytes] = field(default_factory=list)
    refusal: bytes = b""
    """What the proxy says instead of opening a tunnel."""

    def graph_answers(self, request: bytes) -> bytes:
        items = json.loads(request.partition(b"\r\n\r\n")[2])["requests"]
        answers = [{"id": item["id"], "status": 204} for item in items]
        body = json.dumps({"responses": answers}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


@pytest.fixture
async def network(authority: Authority) -> AsyncIterator[Network]:
    here, relays = Network(), set[asyncio.Task[None]]()

    async def graph(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(one[15:]) for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:"))
            here.asked.append(head + await reader.readexactly(length))
            writer.write(here.graph_answers(here.asked[-1]))
            await writer.drain()
        writer.close()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.tunnels.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(here.refusal or b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        if here.refusal:
            writer.close()
            return
        there, to_there = await asyncio.open_connection("127.0.0.1", graph_port)
        for one in (pump(reader, to_there), pump(there, writer)):
            relays.add(asyncio.create_task(one))

    async with (
        await asyncio.start_server(graph, "127.0.0.1", 0, ssl=authority.server) as behind,
        await asyncio.start_server(proxy, "127.0.0.1", 0) as front,
    ):
        graph_port = behind.sockets[0].getsockname()[1]
        here.port = front.sockets[0].getsockname()[1]
        yield here
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
        behind.close_clients()
        front.close_clients()


async def reset(endpoint: GraphEndpoint = GLOBAL) -> tuple[AnswerKind, str]:
    async with await GraphIntune.create(endpoint, StaticTokenCredential("graphs-token")) as intune:
        answer = (await intune.reset([Order(DEVICE, OrderId("o"))]))[DEVICE]
    return answer.kind, answer.detail


# Through the proxy


@pytest.mark.parametrize("ca", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_graph_is_reached_through_the_proxy_under_the_own_authority_and_no_log_has_the_password(
    network: Network,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    ca: str,
) -> None:
    monkeypatch.setenv(variable, f"http://robot:pass%2Fword@127.0.0.1:{network.port}")
    monkeypatch.setenv(ca, str(authority.file))
    with caplog.at_level(logging.DEBUG):
        kind, _ = await reset()
    assert kind is AnswerKind.ACCEPTED
    (tunnel,), (request,) = network.tunnels, network.asked
    assert tunnel.startswith("CONNECT graph.microsoft.com:443 HTTP/1.1\r\n")
    assert "graphs-token" not in tunnel
    secret = base64.b64encode(b"robot:pass/word").decode()
    assert f"basic {secret}".lower() in tunnel.lower()
    assert b"Bearer graphs-token" in request
    assert secret.encode() not in request
    for hidden in ("pass", secret, "robot", "graphs-token"):
        assert hidden not in caplog.text


async def test_an_authority_that_is_not_trusted_stops_the_call_before_anything_is_sent(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{network.port}")
    kind, detail = await reset()
    assert kind is AnswerKind.NOT_SENT
    assert "certificate verify failed" in detail.lower()
    assert "SSL_CERT_FILE" in detail
    assert network.asked == []


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway", b"403 Forbidden"])
async def test_a_proxy_that_opens_no_tunnel_means_that_nothing_was_sent(
    network: Network, authority: Authority, monkeypatch: pytest.MonkeyPatch, status: bytes
) -> None:
    network.refusal = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setenv("HTTPS_PROXY", f"http://robot:password@127.0.0.1:{network.port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    kind, detail = await reset()
    assert kind is AnswerKind.NOT_SENT
    assert status.decode() in detail
    assert "password" not in detail
    patience = Patience(attempts=1)
    async with await GraphIntune.create(GLOBAL, StaticTokenCredential("t"), patience=patience) as intune:
        with pytest.raises(GraphUnavailable):
            await intune.look([DEVICE])


# Around the proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
async def test_a_graph_on_this_machine_is_never_reached_through_a_proxy(
    network: Network, monkeypatch: pytest.MonkeyPatch, host: str, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{network.port}")
    for scheme in ("http", "https"):
        kind, _ = await reset(GraphEndpoint.parse(f"{scheme}://{host}:9"))
        assert kind is AnswerKind.NOT_SENT, "nobody listens at that port"
    assert network.tunnels == []


@pytest.mark.parametrize(
    "excluded", ["graph.microsoft.com", "microsoft.com", ".microsoft.com", "x.example, microsoft.com", "*"]
)
def test_no_proxy_leaves_graph_out(monkeypatch: pytest.MonkeyPatch, excluded: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert proxy_for(GLOBAL) is not None
    monkeypatch.setenv("NO_PROXY", excluded)
    assert proxy_for(GLOBAL) is None


@pytest.mark.parametrize("excluded", ["", "soft.com", "graph.microsoft.us", "login.microsoftonline.com"])
def test_no_proxy_for_others_leaves_graph_in(monkeypatch: pytest.MonkeyPatch, excluded: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", excluded)
    proxy = proxy_for(GLOBAL)
    assert proxy is not None
    assert str(proxy.url) == "http://proxy.example:3128"


def test_a_proxy_for_plain_http_is_none_for_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert proxy_for(GLOBAL) is None


# Settings that cannot be used


@pytest.mark.parametrize("address", ["ftp://robot:password@proxy.example", "http://robot:password@proxy:notaport"])
async def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(EndpointError, match="HTTPS_PROXY") as caught:
        await GraphIntune.create(GLOBAL, StaticTokenCredential("t"))
    told = [str(caught.value), repr(caught.value.__cause__)]
    assert not [one for one in told if "password" in one or "robot" in one]


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    return file


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_certificates_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, unreadable: Path, variable: str
) -> None:
    for file in (unreadable, unreadable.with_name("missing.pem")):
        monkeypatch.setenv(variable, str(file))
        with pytest.raises(EndpointError, match=file.name):
            transport_for(GLOBAL)
        transport_for(GraphEndpoint.parse("http://127.0.0.1:9"))  # which needs none of them
