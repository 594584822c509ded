"""deploy/size.py: the sizes that SGLang stores, and a real server that holds what is told."""

import json
import subprocess
import sys

import pytest

import live
from chart import ROOT, quantity, render, workloads

SIZE = ROOT / "deploy/size.py"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, SIZE, *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def plan(*arguments):
    code, said, error = run(*arguments, "--json")
    assert code == 0, error
    return json.loads(said)


@pytest.mark.parametrize(
    "arguments, value_bytes, values_a_page",
    [
        # Sizes of DESIGN 4, as seen in SGLang's host pools.
        (["--model", "deepseek-v3", "--page-size", "64"], 4_497_408, 1),
        (["--model", "deepseek-v3", "--page-size", "1", "--tp", "8"], 70_272, 1),
        (["--model", "llama-3-70b", "--page-size", "64", "--tp", "8"], 1_310_720, 16),
        (["--model", "llama-3-70b", "--page-size", "1", "--tp", "8"], 20_480, 16),
        (["--model", "llama-3-70b", "--page-size", "1", "--tp", "16"], 20_480, 32),
        (["--layers", "32", "--kv-heads", "8", "--head-dim", "128", "--kv-dtype", "fp8",
          "--page-size", "64"], 2_097_152, 2),
    ],
)  # fmt: skip
def test_sizes_of_values(arguments, value_bytes, values_a_page):
    made = plan(*arguments, "--tokens", "1M")
    assert (made["value_bytes"], made["values_a_page"]) == (value_bytes, values_a_page)


def test_servers_and_tokens_are_each_others_inverse():
    common = ["--model", "deepseek-v3", "--server-memory", "512GiB"]
    need = plan(*common, "--tokens", "1e9")
    assert need["servers"] == plan(*common, "--tokens", "1e9", "--spare", "2")["servers"] - 2
    assert need["memory"] == need["servers"] * (512 << 30)
    back = plan(*common, "--memory", f"{need['memory'] >> 30}GiB")
    assert 1e9 <= back["tokens"] < 1e9 * (need["servers"] + 1) / (need["servers"] - 1)
    payload = 1e9 * need["bytes_a_token"]
    assert 1.05 < need["memory"] / payload < 1.15


def test_the_limit_is_the_charts():
    made = plan("--model", "llama-3-8b", "--page-size", "1", "--memory", "64GiB")
    values = {"dataserver": {"memory": "64GiB", "meanValue": f"{made['value_bytes'] >> 10}KiB"}}
    server = workloads(render(values))[0]["spec"]["template"]["spec"]["containers"][0]
    limit = quantity(server["resources"]["limits"]["memory"])
    assert abs(limit - made["pod_limit"]) < 2 << 20


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--tokens", "1M"], "which model?"),
        (["--model", "gpt-2", "--tokens", "1M"], "deepseek-v3"),
        (["--model", "llama-3-8b", "--tokens", "many"], "'many' is not a number"),
        (["--model", "llama-3-8b", "--tokens", "0"], "at least 1"),
        (["--model", "llama-3-8b", "--memory", "big"], "'big' is not a size"),
        (["--model", "llama-3-8b"], "--tokens"),
        (["--model", "llama-3-405b", "--page-size", "100K", "--tokens", "1"], "1 GiB"),
    ],
)
def test_wrong_input_says_what_is_allowed(arguments, said):
    code, _, error = run(*arguments)
    assert code == 2 and said in error, error


@pytest.mark.parametrize("page_size, tokens", [("1", "2500"), ("64", "2560")])
def test_a_real_server_of_that_size_holds_them_all(page_size, tokens, bin_dir, tmp_path):
    """Nothing is evicted, and less than a tenth of the memory is left over."""
    common = ["--model", "llama-3-70b", "--tp", "1", "--page-size", page_size]
    made = plan(*common, "--tokens", tokens, "--kv-dtype", "fp8")
    mean = str(made["value_bytes"])
    arguments = ["--memory", str(made["memory_a_server"]), "--mean-value", mean]
    with live.Cluster(bin_dir, tmp_path, servers=1, server_arguments=arguments) as cluster:
        keys = str(made["values"])
        cluster.bench(
            "get", "--keys", keys, "--value-size", mean, "--seconds", "0.1", "--batch", "16"
        )
        evicted = cluster.metrics("server-0").split("simm_pool_evictions_total{")[1:]
        assert {float(line.split("\n")[0].split()[-1]) for line in evicted} == {0}
        assert cluster.metric("server-0", "simm_pool_entries") == made["values"]
        used = cluster.metric("server-0", "simm_pool_value_bytes")
    assert used == made["values"] * made["value_bytes"]
    assert used > 0.85 * made["memory_a_server"]
