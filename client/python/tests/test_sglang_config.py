"""Settings of simm.sglang: where they come from, and what a wrong one says."""

import json

import pytest
import sglang_release  # noqa: F401
from simm.sglang.config import Config, ConfigError, addresses, load

FILE = "SGLANG_HICACHE_SIMM_CONFIG_PATH"
ALIAS = "DEFAULT_SIMM_CONFIG_PATH_ENV"


def written(tmp_path, content, name="simm.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_extra_config_goes_before_the_file_and_the_file_before_the_environment(tmp_path):
    path = written(tmp_path, {"manager_address": "file:2", "deadline_s": 0.5, "transport": "tcp"})
    environ = {"SIMM_CLUSTER_MANAGER": "environment:3"}
    assert load(None, environ).manager_address == ("environment:3",)
    for variable in (FILE, ALIAS):
        config = load({}, {**environ, variable: path})
        assert config.manager_address == ("file:2",)
        assert config.deadline_s == 0.5
    config = load({"manager_address": "extra:1", "transport": "shm"}, {**environ, FILE: path})
    assert config.manager_address == ("extra:1",)
    assert (config.transport, config.deadline_s) == ("shm", 0.5)


def test_the_documented_variable_goes_before_its_alias(tmp_path):
    one = written(tmp_path, {"manager_address": "one:1"}, "one.json")
    two = written(tmp_path, {"manager_address": "two:2"}, "two.json")
    assert load({}, {FILE: one, ALIAS: two}).manager_address == ("one:1",)


def test_defaults():
    config = load({"manager_address": "a:1"}, {})
    assert config == Config(manager_address=("a:1",))
    assert config.deadline_s == 1.5


def test_without_managers_the_error_names_all_three_ways():
    with pytest.raises(ConfigError) as error:
        load({}, {})
    for way in ("--hicache-storage-backend-extra-config", FILE, "SIMM_CLUSTER_MANAGER"):
        assert way in str(error.value)


@pytest.mark.parametrize(
    "given,expected",
    [
        ("10.0.0.1:30001", ("10.0.0.1:30001",)),
        ("a:1, b:2", ("a:1", "b:2")),
        (["a:1", "[::1]:30001"], ("a:1", "[::1]:30001")),
        ("[fe80::1%eth0]:65535", ("[fe80::1%eth0]:65535",)),
    ],
)
def test_addresses(given, expected):
    assert addresses(given, "here") == expected


@pytest.mark.parametrize(
    "given,says",
    [
        ("10.0.0.1", "names no port"),
        ("::1:30001", "brackets"),
        ("[::1]", "names no port"),
        ("[::1:30001", "IPv6"),
        ("host:", "port ''"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("host:http", "1 to 65535"),
        (":30001", "names no port"),
        ("a:1,,b:2", "not an address"),
        ("", "not an address"),
        ([], "host:port"),
        (30001, "host:port"),
        ([30001], "not an address"),
    ],
)
def test_wrong_addresses_are_named(given, says):
    with pytest.raises(ConfigError) as error:
        load({"manager_address": given}, {})
    assert says in str(error.value)
    assert "manager_address" in str(error.value) and repr(given) in str(error.value)


@pytest.mark.parametrize(
    "key,value,allowed",
    [
        ("deadline_s", 0, "from 0.01 to 60"),
        ("deadline_s", "1.5", "number"),
        ("deadline_s", True, "number"),
        ("set_deadline_s", 601, "from 0.01 to 600"),
        ("connect_timeout_s", -1, "from 0.1"),
        ("negative_ttl_s", -0.5, "from 0.0"),
        ("max_lanes_per_server", 0, "from 1 to 16"),
        ("max_lanes_per_server", 2.5, "whole number"),
        ("step_bytes", 1, "from 1048576"),
        ("transport", "rdma", "auto, shm, tcp, verbs"),
        ("transport", ["tcp"], "auto, shm, tcp, verbs"),
        ("verify", "never", "always, sampled, off"),
        ("share_reads", True, "auto, on, off"),
        ("deadline_s", float("nan"), "from 0.01 to 60"),
        ("step_bytes", float("inf"), "whole number"),
        ("devices", ["a", 7], "mlx5_0"),
        ("kv_dtype", None, "text"),
        ("devices", 7, "mlx5_0"),
        ("enable_profile", "yes", "true or false"),
        ("extra_backend_tag", 5, "text"),
        ("model_id", "m" * 257, "256 characters"),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(tmp_path, key, value, allowed):
    content = {"manager_address": "a:1", key: value}
    for extra, environ, source in (
        (content, {}, "--hicache-storage-backend-extra-config"),
        ({}, {FILE: written(tmp_path, content)}, FILE),
    ):
        with pytest.raises(ConfigError) as error:
            load(extra, environ)
        for part in (source, key, repr(value), allowed):
            assert part in str(error.value)


@pytest.mark.parametrize(
    "key,nearest",
    [
        ("deadlines", "deadline_s"),
        ("manager_adress", "manager_address"),
        ("colour", ""),
        ("prefetch_treshold", "prefetch_threshold"),
        ("hicache_size", ""),
        (7, ""),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(tmp_path, key, nearest):
    content = {"manager_address": "a:1", key: 1}
    for extra, environ, source in (
        (content, {}, "--hicache-storage-backend-extra-config"),
        ({}, {FILE: written(tmp_path, {str(k): v for k, v in content.items()})}, FILE),
    ):
        with pytest.raises(ConfigError) as error:
            load(extra, environ)
        assert source in str(error.value) and str(key) in str(error.value)
        assert "did you mean" in str(error.value) and "step_bytes" in str(error.value)
        if source != FILE or not nearest.startswith("prefetch"):
            assert nearest in str(error.value)


SGLANGS = {
    "backend_name": "simm",
    "module_path": "simm.sglang",
    "class_name": "HiCacheSimm",
    "interface_v1": 1,
    "tp_lcm_size": 8,
    "prefetch_threshold": 256,
    "prefetch_timeout_base": 2.0,
    "prefetch_timeout_per_ki_token": 0.1,
    "prefetch_timeout_max": 30.0,
    "hicache_storage_pass_prefix_keys": False,
}


def test_keys_of_sglang_and_of_its_own_simm_backend_are_accepted(caplog):
    extra = {"manager_address": "a:1", **SGLANGS, "clnt_threadpool_size": 10}
    assert load({**extra, "enable_profile": True}, {}).enable_profile is True
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("key", SGLANGS)
def test_keys_of_sglang_do_nothing_in_the_file_and_are_refused_there(tmp_path, key):
    path = written(tmp_path, {"manager_address": "a:1", key: SGLANGS[key]})
    with pytest.raises(ConfigError) as error:
        load({}, {FILE: path})
    for part in (FILE, path, repr(key), "--hicache-storage-backend-extra-config"):
        assert part in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_file_that_is_no_json_object_is_named(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        load({}, {FILE: path})
    assert FILE in str(error.value) and path in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="missing.json"):
        load({"manager_address": "a:1"}, {FILE: str(tmp_path / "missing.json")})


def test_devices():
    assert load({"manager_address": "a:1", "devices": "a, b"}, {}).devices == ("a", "b")
    assert load({"manager_address": "a:1", "devices": ["a"]}, {}).devices == ("a",)
