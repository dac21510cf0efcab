"""The host's pure parts: settings, host.json, routes, message bodies, waiting."""

import base64
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from sandbox.host import config, routes
from sandbox.host.declared import HostError, resolve
from sandbox.host.queues import Backoff, decode
from sandbox.host.worker import Function, select


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "host.json").write_text('{"version": "2.0"}')
    return tmp_path


def test_host_json_that_says_little_has_azures_defaults(app: Path) -> None:
    options = config.load_host_options(app, {})
    queues = options.extensions.queues
    assert (queues.batch_size, queues.new_batch_threshold, queues.max_dequeue_count) == (16, 8, 5)
    assert (queues.max_polling_interval, queues.visibility_timeout) == (timedelta(minutes=1), timedelta())
    assert (queues.message_encoding, options.extensions.http.route_prefix) == ("base64", "api")
    assert options.function_timeout == timedelta(minutes=30)


def test_host_json_is_read_and_a_setting_overrides_it_whatever_its_case(app: Path) -> None:
    queues = {"batchSize": 4, "visibilityTimeout": "00:00:30", "messageEncoding": "none"}
    (app / "host.json").write_text(
        json.dumps(
            {"version": "2.0", "functionTimeout": "-1", "extensions": {"queues": queues, "http": {"routePrefix": ""}}}
        )
    )
    options = config.load_host_options(app, {"AZUREFUNCTIONSJOBHOST__extensions__Queues__batchsize": "2"})
    assert (options.extensions.queues.batch_size, options.extensions.queues.new_batch_threshold) == (2, 1)
    assert options.extensions.queues.visibility_timeout == timedelta(seconds=30)
    assert (options.extensions.queues.message_encoding, options.extensions.http.route_prefix) == ("none", "")
    assert options.function_timeout is None


@pytest.mark.parametrize(
    ("setting", "value", "fault"),
    [
        ("extensions__queues__batchSize", "33", "batchsize"),
        ("extensions__queues__maxPollingInterval", "2000", "maxpollinginterval"),
        ("extensions__queues__maxPollingInterval", "00:00:00.05", "maxpollinginterval"),
        ("extensions__queues__batchSizes", "3", "batchsizes"),
        ("extensions__queues__messageEncoding", "utf8", "messageencoding"),
        ("version__x", "1", "version"),
        ("version", "1.0", "version"),
    ],
)
def test_a_bad_value_is_refused_by_name(app: Path, setting: str, value: str, fault: str) -> None:
    with pytest.raises(HostError, match=fault):
        config.load_host_options(app, {f"AzureFunctionsJobHost__{setting}": value})


def test_settings_go_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAME", "old")
    file = tmp_path / "s.json"
    file.write_text('{"IsEncrypted": false, "Values": {"SAME": "new"}}')
    config.load_settings(file)
    assert resolve("%SAME%", os.environ, "it") == "new"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ('{"IsEncrypted": true}', "encrypted"),
        ('{"Values": {"N": 5}}', "the value of N must be a string, not 5"),
        ('{"Values": []}', "Values must be"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(HostError, match=fault):
        config.load_settings(tmp_path / "s.json")


def test_a_connection_is_found_under_its_name_or_with_the_prefix() -> None:
    assert config.storage_connection("Main", {"AzureWebJobsMain": "a", "Main": "b"}, "f") == "a"
    assert config.storage_connection("Main", {"Main": "b"}, "f") == "b"
    assert "127.0.0.1:10001" in config.storage_connection("Main", {"Main": "UseDevelopmentStorage=true"}, "f")
    with pytest.raises(HostError, match="Main is identity-based"):
        config.storage_connection("Main", {"Main__queueServiceUri": "https://q"}, "f")


def test_an_unknown_time_zone_is_refused() -> None:
    assert config.time_zone({}).key == "UTC"
    with pytest.raises(HostError, match="WEBSITE_TIME_ZONE is 'W"):
        config.time_zone({"WEBSITE_TIME_ZONE": "W. Europe Standard Time"})


@pytest.mark.parametrize(
    ("template", "path", "params"),
    [
        ("a/b", "/api/A/B", {}),
        ("a/b", "/api/a/b/", {}),
        ("a/b", "/api/a", None),
        ("a/{id}", "/api/a/x y", {"id": "x y"}),
        ("a/{id}", "/api/a/x/y", None),
        ("a/{id?}", "/api/a", {}),
        ("a/{id:int}", "/api/a/12", {"id": "12"}),
        ("a/{id:int}", "/api/a/x", None),
        ("a/{id:int?}", "/api/a", {}),
        ("a/{id:guid}", "/api/a/0f8fad5b-d9cb-469f-a165-70867728950e", {"id": "0f8fad5b-d9cb-469f-a165-70867728950e"}),
        ("a/{x}-{y}", "/api/a/1-2", {"x": "1", "y": "2"}),
        ("{*rest}", "/api/a/b", {"rest": "a/b"}),
        ("{*rest}", "/api", {}),
        ("{*rest}", "/apiary", None),
    ],
)
def test_a_route_matches_its_paths(template: str, path: str, params: dict[str, str] | None) -> None:
    assert routes.parse(template, "api").match(path) == params


def test_of_two_routes_the_more_specific_comes_first() -> None:
    templates = ["{*rest}", "a/{id}", "a/{id:int}", "a/b", "a/{*rest}"]
    ranked = sorted((routes.parse(template, "") for template in templates), key=lambda route: route.rank)
    assert [route.template for route in ranked] == ["a/b", "a/{id:int}", "a/{id}", "a/{*rest}", "{*rest}"]


@pytest.mark.parametrize("template", ["a/{id:regex}", "{*rest}/b", "a/{id", "{a}/{a}"])
def test_a_route_that_is_not_modelled_is_refused(template: str) -> None:
    with pytest.raises(routes.RouteError):
        routes.parse(template, "api")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (base64.b64encode('{"a": "ü"}'.encode()).decode(), '{"a": "ü"}'),
        ("eyJh\r\nIjogMX0=", '{"a": 1}'),
        ('{"a": 1}', None),
        ("ABC", None),
        ("grüße", None),
    ],
)
def test_a_body_is_decoded_only_when_it_is_base64(content: str, text: str | None) -> None:
    assert decode(content) == text


def test_an_empty_queue_is_looked_at_ever_less_often_until_the_limit_and_at_once_again_after_a_message() -> None:
    backoff = Backoff(2.0)
    waits = [backoff.next() for _ in range(8)]
    assert waits[0] == pytest.approx(0.1)
    assert waits == sorted(waits)
    assert waits[-1] == 2.0
    backoff.reset()
    assert backoff.next() == pytest.approx(0.1)


def test_the_functions_asked_for_run_unless_a_setting_disables_them() -> None:
    functions = [Function(name, name, {}) for name in ("a", "b", "c")]
    names = [function.name for function in select(functions, None, {"AzureWebJobs.b.Disabled": "true"})]
    assert names == ["a", "c"]
    assert [function.name for function in select(functions, ["c"], {})] == ["c"]
    with pytest.raises(HostError, match="no function d, e"):
        select(functions, ["a", "e", "d"], {})
