"""The nodes that train together: their number, this node's rank, and the rendezvous endpoint.

Node 0 hosts torch's elastic rendezvous, judges the run and prints the verdict. All nodes see the same run
directory.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.util.exits import CannotRun, TaskError, TrainingFailed, UsageError

if TYPE_CHECKING:
    from tasks.machine.platforms import Platform

DEFAULT_TIMEOUT_S = 600.0
LOOPBACK = "127.0.0.1"
_LOOPBACK_TIMEOUT_S = 5.0
_FIRST_PORT, _PORTS = 29400, 1000  # of Slurm jobs: two of them on one machine rarely get the same
_KEEP_ALIVE_S = 3  # between two signs of life of an agent; after three missed ones it counts as dead


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes of a run. ``rank``: this node's; ``endpoint``: host:port of node 0; ``timeout_s``: of waits."""

    count: int = 1
    rank: int = 0
    endpoint: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def first(self) -> bool:
        return self.rank == 0


ALONE = Nodes()
OPTIONS = ("nnodes", "node_rank", "rdzv_endpoint", "node_timeout")  # by their names in a namespace


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of torchrun, by torchrun's names."""
    group = parser.add_argument_group("several machines (in a Slurm step, its variables say this)")
    group.add_argument("--nnodes", metavar="N", type=int, help="how many machines train together")
    group.add_argument("--node-rank", metavar="K", type=int, help="which of them this is: 0 to N-1")
    group.add_argument(
        "--rdzv-endpoint", metavar="HOST:PORT", help="an address of node 0 that all reach, and a free port"
    )
    group.add_argument(
        "--node-timeout",
        metavar="SECONDS",
        type=float,
        help=f"how long nodes wait for one another (default: {DEFAULT_TIMEOUT_S:.0f})",
    )


def read_nodes(options: argparse.Namespace, variables: Mapping[str, str] | None = None) -> Nodes:
    """The nodes that the options name, else those of the Slurm step that this runs in.

    Raises:
        UsageError: half of the options, numbers that do not fit, or several tasks of a step on a node.
    """
    variables = os.environ if variables is None else variables
    timeout_s = DEFAULT_TIMEOUT_S if options.node_timeout is None else options.node_timeout
    if not timeout_s > 0:
        raise UsageError(f"--node-timeout {timeout_s}: must be more than 0 seconds")
    if options.nnodes is None:
        if options.node_rank is not None or options.rdzv_endpoint is not None:
            raise UsageError("--node-rank and --rdzv-endpoint need --nnodes, the number of machines")
        return _of_slurm(variables, timeout_s)
    count, rank = options.nnodes, options.node_rank
    if count < 1:
        raise UsageError(f"--nnodes {count}: must be at least 1")
    if count == 1 and rank in (None, 0):
        return ALONE
    if count > 1 and (rank is None or options.rdzv_endpoint is None):
        raise UsageError(
            f"--nnodes {count}: give --node-rank 0 to {count - 1} and --rdzv-endpoint HOST:PORT of node 0"
        )
    if not 0 <= rank < count:
        raise UsageError(f"--node-rank {rank}: must be 0 to {count - 1} with --nnodes {count}")
    nodes = Nodes(count=count, rank=rank, endpoint=options.rdzv_endpoint, timeout_s=timeout_s)
    _address(nodes)
    return nodes


def refuse_alone_only(nodes: Nodes, *, retries: bool = False, go_on: bool = False) -> None:
    """Refuse options that only one machine supports.

    Raises:
        UsageError: several nodes, with ``--retries`` or ``--continue``.
    """
    if nodes.several and (retries or go_on):
        raise UsageError(
            f"{'--retries' if retries else '--continue'}: not on several machines; --max-restarts N has them"
            " wait for a node that is started again"
        )


def _of_slurm(variables: Mapping[str, str], timeout_s: float) -> Nodes:
    """The nodes of the Slurm step, from srun's variables (https://slurm.schedmd.com/srun.html).

    Variables of the job are also set in a shell of salloc, where no task was started.
    """
    count = _number(variables, "SLURM_STEP_NUM_NODES", "1")
    if count == 1:
        return ALONE
    if variables.get("SLURM_STEP_NUM_TASKS") != str(count):
        raise UsageError(
            f"this Slurm step has {variables.get('SLURM_STEP_NUM_TASKS')} tasks on {count} nodes: start one a"
            " node (srun --ntasks-per-node=1); each starts the ranks of its node itself"
        )
    job, step = (_number(variables, f"SLURM_{name}_ID", "0") for name in ("JOB", "STEP"))
    port = _FIRST_PORT + (job + step) % _PORTS
    host = first_host(variables.get("SLURM_STEP_NODELIST", ""))
    rank = _number(variables, "SLURM_NODEID")
    return Nodes(count=count, rank=rank, endpoint=f"{host}:{port}", timeout_s=timeout_s)


def _number(variables: Mapping[str, str], name: str, default: str = "") -> int:
    value = variables.get(name) or default
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise UsageError(f"{name}={value}: no number; give --nnodes, --node-rank and --rdzv-endpoint")
    return int(value)


def first_host(hostlist: str) -> str:
    """The first name of Slurm's list: ``dgx[01-04,07]`` begins with ``dgx01``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hostlist)
    if first is None:
        raise UsageError(
            f"SLURM_STEP_NODELIST={hostlist}: no list of hosts; give --rdzv-endpoint and --nnodes"
        )
    return re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", first.group())


def spread(platform: Platform, nodes: Nodes) -> Platform:
    """The platform of all nodes together. On CPUs the eight ranks are split over the nodes and the
    platform keeps its name: results do not depend on where ranks run. GPUs add up.

    Raises:
        UsageError: eight ranks cannot be shared out evenly.
    """
    if not nodes.several:
        return platform
    if platform.device == "cuda":
        name, world_size = f"{platform.name}_x{nodes.count}", platform.world_size * nodes.count
        return dataclasses.replace(platform, name=name, world_size=world_size)
    if platform.world_size % nodes.count:
        raise UsageError(f"--nnodes {nodes.count}: the {platform.world_size} ranks need 1, 2, 4 or 8 nodes")
    return platform


def check_loopback() -> None:
    """Refuse a machine on which processes cannot reach each other; torch would try for two minutes.

    Raises:
        CannotRun: nothing is reached at 127.0.0.1.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_LOOPBACK_TIMEOUT_S).close()
    except OSError as error:
        raise CannotRun(
            f"{LOOPBACK} cannot be reached ({error.strerror or error}), where ranks meet: bring the loopback"
            " interface up (ip link set lo up), or give the container a network"
        ) from None


def agent_settings(nodes: Nodes, phase_directory: Path) -> dict[str, Any]:
    """Rendezvous settings for torch's ``LaunchConfig``.

    Raises:
        CannotRun: node 0 cannot be found, or not be reached.
    """
    if not nodes.several:
        # A free port; and a numeric address, since looking up a name takes a lock of the C library that a
        # thread of the agent may hold just when it forks: that rank would wait for it forever.
        return {"run_id": uuid.uuid4().hex, "rdzv_endpoint": f"{LOOPBACK}:0", "local_addr": LOOPBACK}
    host, port = _address(nodes)
    name = f"{phase_directory.parent.name}/{phase_directory.name}"
    return {
        "run_id": hashlib.sha256(name.encode()).hexdigest()[:32],
        "rdzv_endpoint": f"{_numeric(host)}:{port}",
        "local_addr": own_address(nodes),
        "rdzv_configs": {
            "is_host": nodes.first,
            "join_timeout": int(nodes.timeout_s),
            "read_timeout": int(nodes.timeout_s),
            "keep_alive_interval": _KEEP_ALIVE_S,
        },
    }


def rendezvous_failure(nodes: Nodes, error: Exception, *, trained: bool) -> TaskError:
    """The error for a failed rendezvous, with its remedy. ``trained``: ranks had run here before."""
    name = type(error).__name__
    cause = (str(error.__cause__ or error).strip().splitlines() or [name])[0]
    if name == "RendezvousClosedError":
        return TrainingFailed("another node gave up; see its output")
    if trained:
        return TrainingFailed(
            f"a node was lost and did not come back to {nodes.endpoint} within {nodes.timeout_s:.0f} s: start"
            " the same command there again, or raise --node-timeout"
        )
    if nodes.first and name == "RendezvousConnectionError":
        return CannotRun(
            f"--rdzv-endpoint {nodes.endpoint}: node 0 cannot listen there: {cause}; choose a free port"
        )
    return CannotRun(
        f"the nodes did not meet at {nodes.endpoint} within {nodes.timeout_s:.0f} s: {cause}; see that all"
        " run and reach that address and port, and that --nnodes is right"
    )


def agent_variables(nodes: Nodes) -> dict[str, str]:
    """Environment variables for the agent and its ranks.

    Without ``GLOO_SOCKET_IFNAME``, Gloo looks up the machine's own name, which on many machines resolves to
    loopback. If agent and ranks shared a store, ranks of another node would connect to an agent that may be
    forking at that moment (see ``launch.agent``), and a replaced node would get its predecessor's address.
    """
    if not nodes.several:
        return {"GLOO_SOCKET_IFNAME": "lo"}  # all ranks are here; no name has to be looked up
    interface = _interface(own_address(nodes))
    return {"GLOO_SOCKET_IFNAME": interface, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def own_address(nodes: Nodes) -> str:
    """The numeric address of this machine on its route to node 0; nothing is sent.

    Raises:
        CannotRun: node 0 cannot be reached.
    """
    host, port = _address(nodes)
    numeric = _numeric(host)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((numeric, port))
            return probe.getsockname()[0]
    except OSError as error:
        raise CannotRun(
            f"--rdzv-endpoint {nodes.endpoint}: not reached from here: {error.strerror}; give an address of"
            " node 0 on a network that all nodes share"
        ) from None


def _interface(address: str) -> str:
    import psutil  # only several nodes need it

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    return "lo" if address.startswith("127.") else ""


def _address(nodes: Nodes) -> tuple[str, int]:
    host, _, port = nodes.endpoint.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--rdzv-endpoint {nodes.endpoint}: write host and port of node 0, for example node0:29400"
        )
    return host, int(port)


def _numeric(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise CannotRun(f"--rdzv-endpoint: no address of {host} is known here: {error.strerror}") from None
