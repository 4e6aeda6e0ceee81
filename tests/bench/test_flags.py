"""Sorting a mixed command line between server and client."""

from __future__ import annotations

import argparse

import pytest

from revati.bench.flags import FlagError, describe_parser, sort_flags, table_from_json
from revati.bench.plan import gpus_needed, make_plan


def parsers() -> dict[str, dict[str, list[object]]]:
    server = argparse.ArgumentParser()
    server.add_argument("--model")
    server.add_argument("--host")
    server.add_argument("--port", type=int)
    server.add_argument("--tensor-parallel-size", "-tp", type=int)
    server.add_argument("--pipeline-parallel-size", "-pp", type=int)
    server.add_argument("--compilation-config", "-cc")
    server.add_argument("--optimization-level", "-O")
    server.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    server.add_argument("--served-model-name", nargs="+")
    server.add_argument("--load-format")
    client = argparse.ArgumentParser()
    client.add_argument("--model")
    client.add_argument("--host")
    client.add_argument("--port", type=int)
    client.add_argument("--request-rate", type=float)
    client.add_argument("--goodput", nargs="+")
    client.add_argument("--ignore-eos", action="store_true")
    client.add_argument("--save-result", action="store_true")
    client.add_argument("--save-detailed", action="store_true")
    client.add_argument("--result-dir")
    client.add_argument("--percentile-metrics")
    client.add_argument("--request-id-prefix")
    client.add_argument("--served-model-name")
    client.add_argument("--tokenizer")
    return {"server": describe_parser(server), "client": describe_parser(client)}


TABLE = table_from_json(parsers())  # type: ignore[arg-type]


def test_each_side_gets_its_own() -> None:
    flags = sort_flags(["--model", "m", "-tp", "4", "--request-rate", "8", "--ignore-eos"], TABLE)
    assert flags.server == ["--model", "m", "-tp", "4"]
    assert flags.client == ["--model", "m", "--request-rate", "8", "--ignore-eos"]
    assert flags.value("--tensor-parallel-size") == "4"


def test_spellings_of_vllm_are_understood() -> None:
    words = ["--tensor_parallel_size=2", "--no-enable-prefix-caching", "-O3", "-cc.mode", "3"]
    words += ["--compilation-config.cudagraph_mode", "FULL", "--goodput", "ttft:100", "tpot:20"]
    flags = sort_flags(words, TABLE)
    assert flags.server == [
        "--tensor-parallel-size=2",
        "--no-enable-prefix-caching",
        "-O3",
        "-cc.mode",
        "3",
        "--compilation-config.cudagraph_mode",
        "FULL",
    ]
    assert flags.client == ["--goodput", "ttft:100", "tpot:20"]
    assert flags.value("--tensor-parallel-size") == "2"
    assert flags.values["--goodput"] == ["ttft:100", "tpot:20"]


def test_negative_numbers_are_values() -> None:
    assert sort_flags(["--request-rate", "-1.5"], TABLE).client == ["--request-rate", "-1.5"]


def test_a_word_that_no_flag_takes_is_positional() -> None:
    assert sort_flags(["some/model", "--ignore-eos"], TABLE).positional == ["some/model"]


@pytest.mark.parametrize(
    "words", [["--no-such-flag", "1"], ["--request-rate"], ["--goodput", "--ignore-eos"]]
)
def test_bad_flags_are_refused(words: list[str]) -> None:
    with pytest.raises(FlagError):
        sort_flags(words, TABLE)


def test_gpus_follow_from_the_parallelism() -> None:
    assert gpus_needed(sort_flags(["-tp", "4", "-pp", "2"], TABLE)) == 8
    assert gpus_needed(sort_flags([], TABLE)) == 1
    with pytest.raises(FlagError, match="positive number"):
        gpus_needed(sort_flags(["-tp", "none"], TABLE))


def test_the_plan_completes_both_commands(tmp_path) -> None:  # type: ignore[no-untyped-def]
    flags = sort_flags(
        ["--model", "m", "-tp", "2", "--request-rate", "8", "--result-dir", "/elsewhere"], TABLE
    )
    plan = make_plan(flags, tmp_path, model="org/m", engine_model="/made/m")
    server, client = " ".join(plan.server_command[3:]), " ".join(plan.client_command[3:])
    assert server.startswith("serve /made/m -tp 2 ")
    assert "--served-model-name org/m" in server and "--load-format dummy" in server
    assert client.startswith("bench serve --request-rate 8 --model org/m")
    assert "--tokenizer /made/m" in client and f"--result-dir {tmp_path}" in client
    assert "/elsewhere" not in client
    port = plan.base_url.rpartition(":")[2]
    assert f"--port {port}" in server and f"--port {port}" in client
    assert plan.gpus_needed == 2
    assert type(plan).from_json(plan.to_json()) == plan


@pytest.mark.parametrize("port", ["0", "70000", "http", "-1", ""])
def test_a_port_that_is_none_is_named(tmp_path, port: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FlagError, match="--port must be 1 to 65535"):
        make_plan(sort_flags([f"--port={port}"], TABLE), tmp_path, model="m")


def test_a_port_in_use_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = sort_flags(["--port", str(taken.getsockname()[1])], TABLE)
        with pytest.raises(FlagError, match="in use"):
            make_plan(flags, tmp_path, model="m")
