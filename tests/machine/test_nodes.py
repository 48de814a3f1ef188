"""Machines that train together: from options, from Slurm's variables, and what follows for the agent."""

from __future__ import annotations

import argparse
import dataclasses
import socket
from pathlib import Path

import pytest

from tasks.cases.loader import load_case
from tasks.cases.names import case_names
from tasks.machine import nodes
from tasks.machine.nodes import ALONE, Nodes
from tasks.util.exits import CannotRun, UsageError
from tests.machines import DGX_A100, chosen

TWO = Nodes(count=2, rank=1, endpoint="127.0.0.1:29400")
STEP = {
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "dgx[07-08]",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
}


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    nodes.add_options(parser)
    return parser.parse_args(argv)


def test_without_options_a_machine_is_alone() -> None:
    assert nodes.read_nodes(parsed(), {}) == ALONE
    assert nodes.read_nodes(parsed("--nnodes", "1"), STEP) == ALONE


def test_options_are_read() -> None:
    argv = "--nnodes 2 --node-rank 1 --rdzv-endpoint node0:29400 --node-timeout 5.0"
    assert nodes.read_nodes(parsed(*argv.split()), STEP) == Nodes(
        count=2, rank=1, endpoint="node0:29400", timeout_s=5
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--node-rank 1", "need --nnodes"),
        ("--rdzv-endpoint a:1", "need --nnodes"),
        ("--nnodes 0", "must be at least 1"),
        ("--nnodes 1 --node-rank 5", "must be 0 to 0 with --nnodes 1"),
        ("--nnodes 2 --node-rank 0", "give --node-rank 0 to 1 and --rdzv-endpoint"),
        ("--nnodes 2 --rdzv-endpoint a:1", "give --node-rank 0 to 1 and --rdzv-endpoint"),
        ("--nnodes 2 --node-rank 2 --rdzv-endpoint a:1", "must be 0 to 1"),
        ("--nnodes 2 --node-rank 0 --rdzv-endpoint a", "write host and port"),
        ("--nnodes 2 --node-rank 0 --rdzv-endpoint a:70000", "write host and port"),
        ("--node-timeout 0", "must be more than 0"),
    ],
)
def test_incomplete_options_are_refused_with_the_missing_ones(argv: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nodes.read_nodes(parsed(*argv.split()), {})


def test_a_slurm_step_needs_no_options() -> None:
    found = nodes.read_nodes(parsed(), STEP)
    assert (found.count, found.rank, found.endpoint) == (2, 1, "dgx07:29967")
    other_job = nodes.read_nodes(parsed(), {**STEP, "SLURM_JOB_ID": "1234568"})
    other_step = nodes.read_nodes(parsed(), {**STEP, "SLURM_STEP_ID": "1"})
    assert found.endpoint not in (other_job.endpoint, other_step.endpoint)
    assert nodes.read_nodes(parsed("--node-timeout", "5"), STEP) == dataclasses.replace(found, timeout_s=5)


def test_a_shell_of_an_allocation_is_no_step() -> None:
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NNODES": "2", "SLURM_JOB_ID": "5", "SLURM_NODEID": "0"}
    assert nodes.read_nodes(parsed(), job) == ALONE


def test_several_tasks_on_a_node_are_refused() -> None:
    with pytest.raises(UsageError, match="--ntasks-per-node=1"):
        nodes.read_nodes(parsed(), {**STEP, "SLURM_STEP_NUM_TASKS": "16"})


@pytest.mark.parametrize(
    ("hostlist", "first"),
    [
        ("node3", "node3"),
        ("node3,node4", "node3"),
        ("dgx[01-04,07]", "dgx01"),
        ("dgx[007]", "dgx007"),
        ("rack[2,4]n[10-12],x1", "rack2n10"),
        ("a-b[1-2].example", "a-b1.example"),
        ("127.0.0.1,127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_first_host_of_a_list(hostlist: str, first: str) -> None:
    assert nodes.first_host(hostlist) == first


def test_an_empty_list_of_hosts_is_refused() -> None:
    with pytest.raises(UsageError, match="SLURM_STEP_NODELIST"):
        nodes.first_host("")


@pytest.mark.parametrize("given", [{"retries": True}, {"go_on": True}])
def test_what_one_machine_does_by_itself_is_refused_on_several(given: dict[str, bool]) -> None:
    nodes.refuse_alone_only(ALONE, **given)
    nodes.refuse_alone_only(TWO)
    with pytest.raises(UsageError, match="not on several machines"):
        nodes.refuse_alone_only(TWO, **given)


def test_a_cpus_ranks_are_shared_out_and_stay_their_platform() -> None:
    platform = chosen("")
    assert nodes.spread(platform, TWO) == platform
    with pytest.raises(UsageError, match="1, 2, 4 or 8 nodes"):
        nodes.spread(platform, dataclasses.replace(TWO, count=3))


def test_gpus_add_up_to_a_platform_of_their_own_that_every_case_fits() -> None:
    dgx = chosen(DGX_A100)
    both = nodes.spread(dgx, TWO)
    assert (both.name, both.world_size, both.ranks_per_gpu) == ("dgx_a100_x2", 16, 1)
    assert nodes.spread(dgx, ALONE) == dgx
    for case in case_names():
        loaded = load_case(case, platform_name=both.name, world_size=both.world_size)
        assert loaded.model_args["--micro-batch-size"] == 2


def test_agents_meet_under_one_name_and_only_node_0_listens() -> None:
    phase = Path("any/run7/phase1")
    settings = [nodes.agent_settings(dataclasses.replace(TWO, rank=rank), phase) for rank in (0, 1)]
    assert settings[0]["run_id"] == settings[1]["run_id"]
    assert settings[0]["run_id"] != nodes.agent_settings(TWO, phase.with_name("phase2"))["run_id"]
    assert [entry["rdzv_configs"]["is_host"] for entry in settings] == [True, False]
    impatient = nodes.agent_settings(dataclasses.replace(TWO, timeout_s=7), phase)["rdzv_configs"]
    assert (impatient["join_timeout"], impatient["read_timeout"]) == (7, 7)
    assert settings[1]["rdzv_endpoint"] == "127.0.0.1:29400"
    assert settings[1]["local_addr"] == "127.0.0.1"


def test_a_machine_alone_takes_any_free_port() -> None:
    settings = nodes.agent_settings(ALONE, Path("run/phase1"))
    assert settings["rdzv_endpoint"] == "127.0.0.1:0"
    assert settings["run_id"] != nodes.agent_settings(ALONE, Path("run/phase1"))["run_id"]


def test_names_are_looked_up_before_ranks_are_forked() -> None:
    named = dataclasses.replace(TWO, endpoint="localhost:29400")
    assert nodes.agent_settings(named, Path("r/p"))["rdzv_endpoint"] == "127.0.0.1:29400"


def test_gloo_takes_the_interface_that_leads_to_node_0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nodes.agent_variables(ALONE) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert nodes.agent_variables(TWO) == {
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # or a rank may be forked under a lock of the store's
    }
    entry = type("Address", (), {"address": "192.0.2.7"})
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"lo": [], "ib0": [entry]})
    monkeypatch.setattr(nodes, "own_address", lambda _: "192.0.2.7")
    assert nodes.agent_variables(TWO)["GLOO_SOCKET_IFNAME"] == "ib0"


@pytest.mark.parametrize("error", [OSError(101, "Network is unreachable"), TimeoutError("timed out")])
def test_a_machine_without_loopback_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    nodes.check_loopback()

    def connect(*_: object, **options: float) -> None:
        assert options["timeout"] < 10
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    message = rf"^127.0.0.1 cannot be reached \({error.strerror or error}\).* \(ip link set lo up\)"
    with pytest.raises(CannotRun, match=message):
        nodes.check_loopback()


def test_an_unknown_host_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    with pytest.raises(CannotRun, match="no address of nowhere is known here"):
        nodes.own_address(dataclasses.replace(TWO, endpoint="nowhere:29400"))


@pytest.mark.parametrize(
    ("name", "rank", "trained", "code", "message"),
    [
        ("Connection", 0, False, 5, "node 0 cannot listen there: in use; choose a free port"),
        ("Connection", 1, False, 5, "did not meet at 127.0.0.1:29400 within 600 s: in use"),
        ("Timeout", 0, False, 5, "did not meet at 127.0.0.1:29400 within 600 s: in use"),
        ("Timeout", 0, True, 3, "did not come back to 127.0.0.1:29400 within 600 s"),
        ("Closed", 0, True, 3, "another node gave up"),
    ],
)
def test_the_error_of_a_failed_rendezvous_has_its_remedy(
    name: str, rank: int, trained: bool, code: int, message: str
) -> None:
    from torch.distributed.elastic import rendezvous

    error = getattr(rendezvous, f"Rendezvous{name}Error")("in use")
    failure = nodes.rendezvous_failure(dataclasses.replace(TWO, rank=rank), error, trained=trained)
    assert failure.exit_code == code
    assert message in str(failure)


def test_a_rendezvous_that_failed_without_a_message_is_named() -> None:
    class RendezvousTimeoutError(Exception): ...

    failure = nodes.rendezvous_failure(TWO, RendezvousTimeoutError(), trained=False)
    assert "RendezvousTimeoutError" in str(failure)


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_STEP_NUM_NODES", "x"), ("SLURM_NODEID", ""), ("SLURM_JOB_ID", "-1")]
)
def test_a_step_with_a_variable_that_is_no_number_is_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name}={value}: no number; give --nnodes"):
        nodes.read_nodes(parsed(), {**STEP, name: value})
