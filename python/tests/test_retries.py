"""What is tried again, when, and how often."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

import asof
from asof._proto import feature_store_pb2 as pb
from asof._proto import feature_store_pb2_grpc as pb_grpc
from conftest import FakeStore

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "going down")
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


def attempts(client: asof.Client, store: FakeStore, failures: list[tuple[grpc.StatusCode, str]]) -> int:
    """How often the server was asked until a call was answered."""
    store.failures, store.asked = list(failures), []
    client.status()
    return len(store.asked)


def test_a_read_is_tried_again_while_the_server_is_not_there(client: asof.Client, store: FakeStore) -> None:
    assert attempts(client, store, []) == 1
    assert attempts(client, store, [UNAVAILABLE] * 3) == 4


def test_the_same_for_asyncio(client: asof.Client, store: FakeStore) -> None:
    async def ask() -> None:
        store.failures, store.pushback = [FULL, FULL], 10
        await client.async_.status()
        store.failures, store.pushback = [FULL], None
        with pytest.raises(asof.ExhaustedError):
            await client.async_.status()
        await client.async_.close()

    asyncio.run(ask())
    assert len(store.asked) == 4


def test_it_is_given_up_after_so_many_attempts(address: str, store: FakeStore) -> None:
    store.failures = [UNAVAILABLE] * 9
    with asof.Client(address, retries=1) as client, pytest.raises(asof.UnavailableError, match="going down"):
        client.status()
    assert len(store.asked) == 2
    with asof.Client(address, retries=0) as client, pytest.raises(asof.UnavailableError):
        client.status()
    assert len(store.asked) == 3


def test_a_full_server_says_when_to_come_back(client: asof.Client, store: FakeStore) -> None:
    store.pushback = 200
    started = time.monotonic()
    assert attempts(client, store, [FULL]) == 2
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("pushback", [None, -1])
def test_what_is_too_much_is_not_tried_again(client: asof.Client, store: FakeStore, pushback: int | None) -> None:
    store.failures, store.pushback = [FULL], pushback
    with pytest.raises(asof.ExhaustedError):
        client.status()
    assert len(store.asked) == 1


def test_a_wrong_call_is_not_tried_again(client: asof.Client, store: FakeStore) -> None:
    store.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "wrong")]
    with pytest.raises(asof.InvalidError):
        client.status()
    assert len(store.asked) == 1


def test_attempts_end_at_the_deadline(client: asof.Client, store: FakeStore) -> None:
    store.failures = [UNAVAILABLE] * 9
    started = time.monotonic()
    with pytest.raises(asof.UnavailableError):
        client.status(timeout=0.15)
    assert time.monotonic() - started < 1


def test_a_spine_is_sent_again_unless_it_was_read_up(client: asof.Client, store: FakeStore) -> None:
    spine = pa.table({"carrier": ["UA", "AA"]})
    store.table, store.failures = spine, [UNAVAILABLE]
    assert len(client.get_batch_features(features=["delay"], entities=spine)) == 2
    assert store.spine is not None and store.spine.equals(spine)
    store.failures = [UNAVAILABLE]
    with pytest.raises(asof.UnavailableError):
        client.get_batch_features(features=["delay"], entities=spine.to_reader())


def test_a_server_that_comes_back_is_found(store: FakeStore) -> None:
    def serve(port: int) -> tuple[grpc.Server, int]:
        server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_FeatureStoreServicer_to_server(store, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        return server, bound

    server, port = serve(0)
    with asof.Client(f"127.0.0.1:{port}", retries=6) as client:
        client.status()
        server.stop(None).wait()
        with futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.status)
            time.sleep(0.3)
            server, _ = serve(port)
            assert asked.result(timeout=10) is not None
    server.stop(None).wait()


def test_a_server_that_is_slow_to_greet_is_waited_for(address: str) -> None:
    """As one is behind a long line, or on a busy machine."""
    host, port = address.split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener, futures.ThreadPoolExecutor(2) as pool:

        def forward(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            near, _ = listener.accept()
            time.sleep(0.5)
            with near, socket.create_connection((host, int(port))) as far:
                sending = pool.submit(forward, near, far)
                forward(far, near)
                sending.result()

        accepting = threading.Thread(target=accept)
        accepting.start()
        with asof.Client(f"127.0.0.1:{listener.getsockname()[1]}", retries=0) as client:
            client.push("arrivals", [{"carrier": "UA"}, {"carrier": "AA"}])
        accepting.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `server.pem` and `server.key`, signed by itself for the name `features.test`."""
    folder = tmp_path_factory.mktemp("tls")
    arguments = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=features.test -keyout server.key -out server.pem"
    subprocess.run(
        ["openssl", *arguments.split(), "-addext", "subjectAltName=DNS:features.test"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def test_tls_with_tokens_and_certificates_of_both_sides(certificate: Path, store: FakeStore) -> None:
    key, pem = (certificate / "server.key").read_bytes(), (certificate / "server.pem").read_bytes()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_FeatureStoreServicer_to_server(store, server)
    credentials = grpc.ssl_server_credentials([(key, pem)], root_certificates=pem, require_client_auth=True)
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    store.status = pb.GetStatusResponse(project="flights")
    files: dict[str, Any] = {"cert": certificate / "server.pem", "key": certificate / "server.key"}
    files["ca"] = files["cert"]
    try:
        tls = asof.Tls(**files, server_name="features.test")
        with asof.Client(address, tls=tls, token="secret") as client:
            assert client.status().project == "flights"
        assert store.metadata["authorization"] == "Bearer secret"
        for other in (True, asof.Tls(ca=files["ca"], server_name="features.test"), asof.Tls(**files)):
            with asof.Client(address, tls=other, retries=0, timeout=5) as client:
                with pytest.raises(asof.UnavailableError):
                    client.status()
    finally:
        server.stop(None).wait()


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(asof.InvalidError, match="go together"):
        asof.Tls(cert=tmp_path / "a.pem")
    with pytest.raises(asof.InvalidError, match="`ca` of Tls cannot be read"):
        asof.Client("localhost:1", tls=asof.Tls(ca=tmp_path / "nowhere.pem"))
    with pytest.raises(asof.InvalidError, match="compression `brotli`"):
        asof.Client("localhost:1", compression="brotli")
    with pytest.raises(asof.InvalidError, match="`retries` is -1"):
        asof.AsyncClient("localhost:1", retries=-1)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "5", True, 1e300])
def test_a_deadline_is_a_number_of_seconds(client: asof.Client, store: FakeStore, timeout: Any) -> None:
    calls: list[Any] = [
        lambda: asof.Client("localhost:1", timeout=timeout),
        lambda: client.status(timeout=timeout),
        lambda: client.get_batch_features(["delay"], as_of="2024-01-01", timeout=timeout),
        lambda: client.get_online_features(["delay"], [{"carrier": "UA"}], timeout=timeout),
        lambda: client.push("arrivals", [{"carrier": "UA"}], timeout=timeout),
        lambda: asyncio.run(client.async_.status(timeout=timeout)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="`timeout` is .*; give seconds above zero"):
            call()
    assert store.asked == []
    client.status(timeout=1e8)


@pytest.mark.parametrize("token", ["top-secret\n", "top secret", "", "top-sécret", 7])
def test_a_token_that_cannot_travel_is_not_told(token: Any) -> None:
    with pytest.raises(asof.InvalidError, match="`token`") as error:
        asof.Client("localhost:1", token=token)
    assert "top" not in str(error.value)


def test_a_closed_client_says_so(address: str) -> None:
    client = asof.Client(address)
    client.close()
    client.close()
    for call in (client.status, lambda: client.get_batch_features(["delay"], as_of="2024-01-01")):
        with pytest.raises(asof.InvalidError, match="the client is closed; make another one"):
            call()


def test_channel_options_are_passed_on(address: str, store: FakeStore) -> None:
    with asof.Client(address, options=[("grpc.primary_user_agent", "notebook")]) as client:
        client.status()
    assert store.metadata["user-agent"].startswith("notebook")


def test_answers_are_compressed_where_that_is_asked_for(real_address: str) -> None:
    rows = {"origin": ["EWR"] * 5000, "event_timestamp": ["2024-01-01T01:00:00Z"] * 5000}

    def bytes_received(compression: str | None) -> int:
        with counting_proxy(real_address) as (address, received):
            with asof.Client(address, compression=compression) as client:
                assert len(client.get_online_features(features=["origin_weather"], entities=rows)) == 5000
            return sum(received)

    assert bytes_received(None) > 5000 * 8
    assert bytes_received("gzip") < 5000


@contextmanager
def counting_proxy(address: str) -> Iterator[tuple[str, list[int]]]:
    """An address that leads to another one, and how many bytes came from there."""
    host, port = address.split(":")
    received: list[int] = []

    def forward(source: socket.socket, target: socket.socket, counts: list[int]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                counts.append(len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener, futures.ThreadPoolExecutor(2) as pool:

        def accept() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection((host, int(port))) as far:
                sending = pool.submit(forward, near, far, [])
                forward(far, near, received)
                sending.result()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", received
        accepting.join()
