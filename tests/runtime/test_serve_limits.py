"""The server's limits: authentication, sizes, timeouts and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charrnn_runtime import CharRNN, CharRNNError, SettingError
from charrnn_runtime.cli.serve import _own_hosts
from charrnn_runtime.serve.keys import VARIABLE, read_keys
from charrnn_runtime.serve.settings import ServeSettings
from run_commands import command_environment, run_module

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from charrnn_runtime.serve.app import create_app
from served import Served, events_of, request_bytes, until

ENDLESS = {"max_tokens": 100_000, "stream": True}


@pytest.fixture(scope="module")
def server(lstm: CharRNN) -> Iterator[Served]:
    settings = ServeSettings(max_body=5000, max_prompt=100, max_length=100_000, max_choices=4, unknown="skip")
    with Served({"lstm": lstm}, settings) as running:
        yield running


def _idle(server: Served) -> bool:
    return not server.service.busy and all(each.streams.idle for each in server.service.models.values())


# --- size limits -------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_rejected_before_it_is_read(server: Served) -> None:
    reply = server.complete(prompt="x" * 5000)
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
    with server.open(head + b"Content-Length: 99999999999\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    with server.open(head + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        for _ in range(6):
            connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("prompt", ["L" * 101, [1] * 101])
def test_a_prompt_that_is_too_long_is_rejected(server: Served, prompt: Any) -> None:
    reply = server.complete(prompt=prompt)
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert "100" in reply.error["message"]


def test_unknown_characters_are_dropped_if_the_server_is_configured_to(server: Served, lstm: CharRNN) -> None:
    reply = server.complete(prompt="LO\u2603RD ", max_tokens=9, seed=1, temperature=0.8, echo=True)
    assert reply.texts == [lstm.generate("LORD ", 9, seed=1)]


def test_a_full_queue_is_a_429_with_retry_after(lstm: CharRNN) -> None:
    settings = ServeSettings(max_running=1, max_waiting=2)
    with (
        Served({"lstm": lstm}, settings) as server,
        server.open(request_bytes("/v1/completions", ENDLESS)) as one,
    ):
        one.recv(100)  # it runs
        streams = server.service.models["lstm"].streams
        assert server.complete(n=3).error["code"] == "queue_full"  # no request is accepted
        with server.open(request_bytes("/v1/completions", {"n": 2})) as two:
            until(lambda: streams.waiting == 2)
            reply = server.complete()
            assert (reply.status, reply.error["type"]) == (429, "rate_limit_error")
            assert int(reply.headers["retry-after"]) > 0
            assert server.complete(stream=True).status == 429
            one.close()
            assert two.recv(100).startswith(b"HTTP/1.1 200 ")


# --- time limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_generation_stops_when_the_client_disconnects(server: Served, stream: bool) -> None:
    streams = server.service.models["lstm"].streams
    asked = {**ENDLESS, "stream": stream, "n": 3}
    with server.open(request_bytes("/v1/completions", asked)) as connection:
        if stream:
            connection.recv(1000)
        until(lambda: streams.running == 3)
    until(lambda: _idle(server))


def test_the_response_to_a_disconnected_client_is_not_completed(server: Served) -> None:
    def taken() -> float:
        found = re.search(rb"(?m)^charrnn:generation_tokens_total\{.*\} (\S+)$", server.ask("/metrics").body)
        return float(found[1]) if found else 0.0

    before, streams = taken(), server.service.models["lstm"].streams
    asked = {**ENDLESS, "max_tokens": 20_000, "n": 4, "logprobs": 20}
    with server.open(request_bytes("/v1/completions", asked)):
        until(lambda: streams.running == 4)
        until(lambda: streams.running == 0)  # more than the buffers between the two can hold
    until(lambda: _idle(server))
    assert taken() - before < 4 * 20_000


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_exceeds_its_time_limit_is_ended(lstm: CharRNN, stream: bool) -> None:
    with Served({"lstm": lstm}, ServeSettings(max_seconds=0.2)) as server:
        reply = server.complete(max_tokens=100_000, stream=stream)
        error = reply.events[-1]["error"] if stream else reply.error
        assert (error["code"], error["type"]) == ("timeout", "timeout_error")
        if not stream:
            assert (reply.status, reply.headers["x-should-retry"]) == (504, "false")
        until(lambda: _idle(server))


def test_a_client_that_does_not_read_loses_its_connection(lstm: CharRNN) -> None:
    with Served({"lstm": lstm}, ServeSettings(max_seconds=0.5)) as server:
        asked = {**ENDLESS, "max_tokens": 1500, "n": 60, "logprobs": 20}
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with connection:
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(request_bytes("/v1/completions", asked))
            until(lambda: server.service.busy)
            until(lambda: not server.connections)
            assert not server.service.busy
        assert server.complete(max_tokens=2).status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: a\r\nX: "], ids=len)
def test_an_idle_connection_is_closed(lstm: CharRNN, sent: bytes) -> None:
    with (
        Served({"lstm": lstm}, ServeSettings(idle_seconds=0.2)) as server,
        server.open(sent) as connection,
        contextlib.suppress(ConnectionResetError),
    ):
        assert connection.recv(100) == b""


def test_a_slow_reader_gets_the_whole_response(server: Served, lstm: CharRNN) -> None:
    asked = {"max_tokens": 5000, "seed": 4, "temperature": 0.8, "stream": True}
    data = b""
    with server.open(request_bytes("/v1/completions", asked, "Connection: close")) as connection:
        time.sleep(0.1)
        while piece := connection.recv(4000):
            data += piece
            time.sleep(0.001)
    lines = [line + "\n" for line in data.decode().split("\n") if line.startswith("data: ")]
    events = list(events_of([part for line in lines for part in (line, "\n")]))
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == lstm.generate("", 5000, seed=4)


# --- access control ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(lstm: CharRNN) -> Iterator[Served]:
    settings = ServeSettings(api_keys=("sesame", "second"), cors=("https://friend.example",))
    with Served({"lstm": lstm}, settings) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/models", "/v1/other", "/tokenize", "/tokenizer_info", "/trace"]
)
@pytest.mark.parametrize(
    "said", [None, "", "sesame", "Bearer", "Bearer wrong", "Bearer sesam", "Basic sesame", "Bearer \xff"]
)
def test_every_model_endpoint_requires_the_key(guarded: Served, path: str, said: str | None) -> None:
    reply = guarded.ask(path, headers={} if said is None else {"Authorization": said})
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["sesame", "second"])
def test_each_key_is_accepted(guarded: Served, key: str) -> None:
    assert guarded.ask("/v1/models", headers={"Authorization": f"Bearer {key}"}).status == 200


def test_the_key_is_required_if_the_server_is_mounted_in_another_application(lstm: CharRNN) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = create_app({"lstm": lstm}, ServeSettings(api_keys=("sesame",)))
    whole = Starlette(routes=[Mount("/models", app)])
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope = {"type": "http", "method": "GET", "path": "/models/v1/models", "root_path": "", "headers": []}
    asyncio.run(whole(scope | {"query_string": b""}, receive, send))
    assert statuses == [401]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/openapi.json"])
def test_monitoring_needs_no_key(guarded: Served, path: str) -> None:
    assert guarded.ask(path).status == 200


def test_other_origins_are_rejected_unless_allowed(guarded: Served, server: Served) -> None:
    def ask(which: Served, origin: str) -> Any:
        key = {"Authorization": "Bearer sesame"}
        return which.ask("/v1/completions", {"max_tokens": 1}, headers={"Origin": origin, **key})

    for which in (guarded, server):
        for origin in ("https://evil.example", "null", "https://friend.example:1"):
            assert ask(which, origin).error["code"] == "origin_not_allowed"
        assert ask(which, f"http://127.0.0.1:{which.port}").status == 200
    reply = ask(guarded, "https://friend.example")
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://friend.example")
    assert "access-control-allow-origin" not in server.ask("/v1/models").headers


def test_the_advice_for_a_rejected_page_names_its_origin(server: Served) -> None:
    for origin, advised in (
        ("https://a.example", "https://a.example"),
        ("null", "ORIGIN"),
        ("x y", "ORIGIN"),
    ):
        error = server.ask("/v1/models", headers={"Origin": origin}).error
        assert f"--cors {advised} " in error["message"]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://Example.org/", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("*", "*"),
    ],
)
def test_origins_are_normalized_as_browsers_send_them(given: str, sent: str) -> None:
    assert ServeSettings(cors=(given,)).cors == (sent,)


def test_dns_rebinding_is_rejected(lstm: CharRNN, server: Served) -> None:
    settings = ServeSettings(hosts=_own_hosts("127.0.0.1", ("https://friend.example:90/",)))
    with Served({"lstm": lstm}, settings) as own:
        evil = {"Host": f"evil.example:{own.port}", "Origin": f"http://evil.example:{own.port}"}
        reply = own.ask("/v1/models", headers=evil)
        assert (reply.status, reply.error["code"]) == (403, "host_not_allowed")
        assert server.ask("/v1/models", headers=evil).status == 200
        for host in (
            "localhost.evil.example",
            "127.0.0.1.evil.example:1",
            "[::2]",
            "friend.example.org",
            "::1",
        ):
            assert own.ask("/v1/models", headers={"Host": host}).status == 403
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "friend.example"):
            assert own.ask("/v1/models", headers={"Host": host}).status == 200
        for path in ("/health", "/metrics"):
            assert own.ask(path, headers=evil).status == 200
        with own.open(b"GET /v1/models HTTP/1.0\r\n\r\n") as connection:
            assert b" 200 " in connection.recv(100)


def test_only_a_server_on_a_loopback_address_checks_the_host() -> None:
    assert "127.0.0.5" in _own_hosts("127.0.0.5", ())
    assert "[::1]" in _own_hosts("::1", ())
    assert _own_hosts("0.0.0.0", ()) == _own_hosts("10.0.0.1", ()) == _own_hosts("127.0.0.1", ("*",)) == ()


def test_preflight_requests_of_allowed_origins_succeed(guarded: Served) -> None:
    headers = {
        "Origin": "https://friend.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    reply = guarded.ask("/v1/completions", method="OPTIONS", headers=headers)
    assert reply.status == 200
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "authorization" in reply.headers["access-control-allow-headers"]


def test_keys_come_from_the_option_the_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("one\n\n  two \n")
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_keys(None, None) == ()
    monkeypatch.setenv(VARIABLE, "three")
    assert read_keys(None, None) == ("three",)
    assert read_keys(None, file) == ("one", "two")
    assert read_keys("four", None) == ("four",)


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "a\x00b", "a\nb"])
def test_a_key_that_is_not_a_valid_header_value_is_rejected(key: str) -> None:
    with pytest.raises(SettingError, match="--api-key"):
        read_keys(key, None)


def test_a_file_without_a_key_is_rejected(tmp_path: Path) -> None:
    for content in (None, b"", b"\xff\xfe"):
        file = tmp_path / "keys.txt"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(CharRNNError, match=r"keys\.txt"):
            read_keys(None, file)
    with pytest.raises(SettingError, match="not both"):
        read_keys("a", file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_body", each) for each in (0, -1, 1.5, "1", None, True)),
        ("max_prompt", 0), ("max_length", -1), ("max_choices", 0), ("max_running", 0), ("max_waiting", 0),
        ("max_seconds", 0), ("max_seconds", float("nan")), ("max_seconds", "1"), ("grace", -1),
        ("idle_seconds", 0), ("api_keys", "key"), ("api_keys", [""]), ("cors", [5]),
        *(("cors", [each]) for each in ("", "null", "example.org", "https://", "https://a/b")),
        ("cors", ["a://*"]), ("cors", ["https://a:x"]), ("unknown", "drop"),
        ("log_prompts", 1),
    ],
)  # fmt: skip
def test_an_invalid_setting_is_rejected_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=name):
        ServeSettings(**{name: value})


# --- the log -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [False, True])
def test_the_log_has_one_line_per_request_and_prompts_only_on_request(
    lstm: CharRNN, caplog: pytest.LogCaptureFixture, shown: bool
) -> None:
    with (
        caplog.at_level(logging.INFO, "charrnn_runtime.serve"),
        Served({"lstm": lstm}, ServeSettings(log_prompts=shown)) as server,
    ):
        server.complete(prompt="LORD\nKING", max_tokens=3)
        server.ask("/no%0Awhere")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("access")]
    assert ("LORD" in lines[0]) == shown
    assert "POST /v1/completions 200" in lines[0]
    assert "sampled=3" in lines[0]
    assert " 404 " in lines[1]
    assert not any("\n" in line for line in lines)


# --- startup and shutdown ----------------------------------------------------------------------------------


def test_requests_are_rejected_until_the_models_are_loaded(lstm: CharRNN) -> None:
    loading = True

    def load() -> CharRNN:
        while loading:
            time.sleep(0.002)
        return lstm

    with Served({"lstm": load}, wait=False) as server:
        try:
            for path, body in (
                ("/health", None),
                ("/v1/models", None),
                ("/v1/completions", {}),
                ("/tokenize", {}),
            ):
                reply = server.ask(path, body)
                assert (reply.status, reply.error["code"]) == (503, "loading")
                assert "retry-after" in reply.headers
        finally:
            loading = False
        until(lambda: server.ask("/health").status == 200)


def test_the_default_length_never_exceeds_the_limit(lstm: CharRNN) -> None:
    with Served({"lstm": lstm}, ServeSettings(max_length=5)) as server:
        assert len(server.complete().texts[0]) == 5
        body = server.ask("/openapi.json").json["paths"]["/v1/completions"]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        assert schema["properties"]["max_tokens"]["default"] == 5


def test_shutdown_finishes_running_requests_and_rejects_new_ones(lstm: CharRNN) -> None:
    with Served({"lstm": lstm}) as server:
        with server.open(request_bytes("/v1/completions", {**ENDLESS, "max_tokens": 20_000})) as connection:
            first = connection.recv(1000)
            server.stop()
            until(lambda: server.service.draining)
            for path, body in (("/health", None), ("/v1/completions", {})):
                reply = server.ask(path, body)
                assert (reply.status, reply.error["code"]) == (503, "draining")
            while b"[DONE]" not in first[-100:]:
                first += connection.recv(1 << 16)
        server.join()


@pytest.mark.parametrize("again", [False, True])
def test_shutdown_ends_long_requests_with_an_error(lstm: CharRNN, again: bool) -> None:
    with Served({"lstm": lstm}, ServeSettings(grace=60 if again else 0.1)) as server:
        with server.open(request_bytes("/v1/completions", ENDLESS)) as connection:
            data = connection.recv(1000)
            server.stop()
            if again:
                until(lambda: server.service.draining)
                server.stop()
                server.stop()
            while piece := connection.recv(1 << 16):
                data = data[-5000:] + piece
        server.join()
        assert b'"code":"draining"' in data


# --- the command -------------------------------------------------------------------------------------------


def _serve(*arguments: object, **options: Any) -> Any:
    return run_module("charrnn_runtime.cli.serve", *arguments, **options)


def test_the_command_serves_until_a_signal_stops_it(lstm_path: Path) -> None:
    command = [sys.executable, "-m", "charrnn_runtime.cli.serve", str(lstm_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=command_environment(), text=True) as process:
        assert process.stderr is not None
        ready = process.stderr.readline()
        assert ready.startswith(f"serving {lstm_path.stem} at http://127.0.0.1:")
        url = ready.split(" at ")[1].split()[0]
        with urllib.request.urlopen(f"{url}/v1/models") as reply:
            assert json.load(reply)["data"][0]["id"] == lstm_path.stem
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert "GET /v1/models 200" in rest
    assert "Traceback" not in rest


def test_a_port_chosen_by_the_system_is_printed_even_with_quiet(lstm_path: Path) -> None:
    command = [sys.executable, "-m", "charrnn_runtime.cli.serve", str(lstm_path), "--port", "0", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=command_environment(), text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split(" at ")[1].split()[0]
        with urllib.request.urlopen(f"{url}/health") as reply:
            assert reply.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == ""
        assert process.wait(30) == 0


def test_a_second_signal_ends_the_command_immediately(lstm_path: Path) -> None:
    command = [sys.executable, "-m", "charrnn_runtime.cli.serve", str(lstm_path), "--port", "0"]
    command += ["--grace", "600", "--max-length", "10000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=command_environment(), text=True) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split(" at http://")[1].split()[0]
        host, port = address.split(":")
        asked = {"max_tokens": 10_000_000, "n": 2}
        whole = socket.create_connection((host, int(port)), timeout=60)
        stream = socket.create_connection((host, int(port)), timeout=60)
        with whole, stream:
            whole.sendall(request_bytes("/v1/completions", asked))
            stream.sendall(request_bytes("/v1/completions", {**asked, "n": 1, "stream": True}))
            stream.recv(1000)

            def all_run() -> bool:
                with urllib.request.urlopen(f"http://{address}/metrics") as reply:
                    return (
                        re.search(rb"(?m)^charrnn:num_requests_running\{.*\} 3\.0$", reply.read()) is not None
                    )

            until(all_run)
            process.send_signal(signal.SIGINT)
            while "GET /metrics" in (line := process.stderr.readline()):
                pass
            assert line == "stopping: 3 streams have 600 seconds to finish; Ctrl-C again ends them now\n"
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            data = b""
            while piece := stream.recv(1 << 16):
                data = data[-5000:] + piece
            assert b'"code":"draining"' in data
            assert whole.recv(1000).startswith(b"HTTP/1.1 503 ")
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert "Traceback" not in rest


def test_unresponsive_clients_cause_no_traceback_at_shutdown(lstm_path: Path) -> None:
    command = [sys.executable, "-m", "charrnn_runtime.cli.serve", str(lstm_path), "--port", "0"]
    sent = [
        request_bytes("/v1/completions", {**ENDLESS, "logprobs": 15}),
        request_bytes("/v1/completions", {})[:-1],  # the body is cut
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 2000,
    ]
    with (
        subprocess.Popen(
            [*command, "--grace", "0.2", "--debug"],
            stderr=subprocess.PIPE,
            env=command_environment(),
            text=True,
        ) as process,
        contextlib.ExitStack() as clients,
    ):
        assert process.stderr is not None
        address = process.stderr.readline().split(" at http://")[1].split()[0]
        host, port = address.split(":")
        for data in sent:
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.setblocking(False)
            client.send(data)

        def one_runs() -> bool:
            with urllib.request.urlopen(f"http://{address}/metrics") as reply:
                return re.search(rb"(?m)^charrnn:num_requests_running\{.*\} 1\.0$", reply.read()) is not None

        until(one_runs)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert "Traceback" not in rest
    assert "Error" not in rest
    assert "Cancel" not in rest


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "prometheus_client"])
def test_without_the_extra_the_command_prints_the_install_command(lstm_path: Path, missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; import charrnn_runtime.cli.serve as it; it.main()"
    )
    command = [sys.executable, "-c", program, str(lstm_path)]
    done = subprocess.run(command, capture_output=True, check=False, env=command_environment(), text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"charrnn-serve: error: charrnn-serve requires {missing}, which is not installed; "
        'pip install starlette "uvicorn[standard]" prometheus_client\n'
    )


def test_errors_of_the_command_are_one_line(lstm_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases: list[tuple[list[object], int, str]] = [
            ([lstm_path, lstm_path], 2, "two models have the name"),
            ([lstm_path, "--port", 70000], 2, "--port"),
            ([lstm_path, "--port", port], 1, "--port"),
            ([lstm_path, "--host", "no.such.host.invalid"], 1, "--host"),
            ([lstm_path, "--max-seconds", 0], 2, "--max-seconds"),
            ([lstm_path, "--max-body", 1], 2, "--max-body must be between 1024 and"),
            ([lstm_path, "--max-body", 1023], 2, "--max-body must be between 1024 and"),
            ([lstm_path, "--api-key", ""], 2, "--api-key"),
            (
                [lstm_path, "--cors", "example.org"],
                2,
                "--cors must be an origin such as https://example.org, or *",
            ),
            ([broken, "--port", 0], 1, "broken.onnx"),
            ([tmp_path / "none.onnx", "--port", 0], 1, "none.onnx"),
        ]
        for arguments, code, said in cases:
            done = _serve(*arguments)
            assert (done.returncode, done.stdout) == (code, b""), done
            *_, last = done.stderr.decode().splitlines()
            assert last.startswith("charrnn-serve: error: "), done
            assert said in last
            assert "Traceback" not in done.stderr.decode()
