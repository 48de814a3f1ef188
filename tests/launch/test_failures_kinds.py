"""Real messages of infrastructure failures are recognised; errors of a training never are."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest

from tasks.launch.failures import (
    KILLED_FOR_MEMORY,
    KILLED_RANK,
    KINDS,
    NO_SPACE,
    OUT_OF_MEMORY,
    PORT_TAKEN,
    SHARED_MEMORY,
    TRANSPORT,
    InfrastructureFailure,
    RankFailure,
    kind_of,
    kind_of_failures,
)
from tasks.util.exits import CANNOT_RUN, TRAINING_FAILED

# As they were said: Gloo's by ranks of this harness; NCCL's and CUDA's in issues of NCCL and PyTorch.
MESSAGES = [
    (
        "RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error"
        " [127.0.0.1]:50835: Connection reset by peer. This is typically caused by a remote worker hanging",
        TRANSPORT,
    ),
    (
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
        " [127.0.0.1]:10895",
        TRANSPORT,
    ),
    (
        "RuntimeError: Gloo connectFullMesh failed with"
        " [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:152] timed out connecting:"
        " SO_ERROR: Connection refused, remote=[127.0.0.1]:22428$5",
        TRANSPORT,
    ),
    (
        "DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1333, remote"
        " process exited or there was a network error, NCCL version 2.18.6",
        TRANSPORT,
    ),
    (
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting"
        " prematurely.",
        TRANSPORT,
    ),
    (
        "DistNetworkError: The server socket has failed to listen on any local network address. port: 39515,"
        " useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
        PORT_TAKEN,
    ),
    ("OSError: [Errno 28] No space left on device", NO_SPACE),
    ("Error while creating shared memory segment /dev/shm/nccl-4Fk2 (size 9637888)", SHARED_MEMORY),
    ("OSError: [Errno 28] No space left on device: '/dev/shm/x'", SHARED_MEMORY),
    (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of"
        " 23.65 GiB of which 11.06 MiB is free.",
        OUT_OF_MEMORY,
    ),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate"
        " memory: you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)",
        OUT_OF_MEMORY,
    ),
    ("MemoryError: ", OUT_OF_MEMORY),
]
OF_THE_TRAINING = [
    "FloatingPointError: lm loss is nan at iteration 3",
    "RuntimeError: weights differ between data-parallel replicas at iteration 10",
    "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598",
    "RuntimeError: The size of tensor a (32) must match the size of tensor b (16) at dimension 1",
    # a collective that not every rank enters, and one that ranks enter with different sizes
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms"
    " for recv operation to complete",
    "RuntimeError: [enforce fail at ../third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <="
    " op.nbytes. 8 vs 4",
    "DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1287, invalid"
    " usage, NCCL version 2.17.1",
    "CheckpointingException: Cannot find global shape metadata for N-D flattened tensor",
    "",
]
LOST = RankFailure(error=MESSAGES[0][0], seconds=2.0)


@pytest.mark.parametrize(("message", "kind"), MESSAGES)
def test_an_infrastructure_failure_is_recognised(message: str, kind: object) -> None:
    assert kind_of(message) is kind


@pytest.mark.parametrize("message", OF_THE_TRAINING)
def test_what_the_training_made_fail_is_not(message: str) -> None:
    assert kind_of(message) is None


def test_this_machines_own_messages_are_recognised() -> None:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use") as error:
            second.bind(first.getsockname())
    assert kind_of(f"OSError: {error.value}") is PORT_TAKEN
    assert kind_of(str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) is NO_SPACE
    assert kind_of(str(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))) is OUT_OF_MEMORY
    assert kind_of(str(OSError(errno.EPIPE, os.strerror(errno.EPIPE)))) is TRANSPORT


def test_none_ends_as_a_mismatch_and_only_what_cannot_hide_a_regression_is_tried_again() -> None:
    assert {kind.exit_code for kind in KINDS} == {TRAINING_FAILED, CANNOT_RUN}
    assert not OUT_OF_MEMORY.retry
    assert not KILLED_FOR_MEMORY.retry
    assert not SHARED_MEMORY.retry
    assert not NO_SPACE.retry
    assert InfrastructureFailure("full", NO_SPACE).exit_code == CANNOT_RUN


# ---- several ranks ----


def test_a_lost_connection_is_the_cause_only_when_no_rank_has_another() -> None:
    assert kind_of_failures({0: LOST, 3: LOST}) is TRANSPORT
    # the rank that failed by itself came later to write it down
    culprit = RankFailure(error="ValueError: rank 6 has had enough", seconds=9.0)
    assert kind_of_failures({0: LOST, 6: culprit}) is None
    full = RankFailure(error="OSError: [Errno 28] No space left on device", seconds=9.0)
    assert kind_of_failures({0: LOST, 6: full}) is NO_SPACE


@pytest.mark.parametrize(("full_at", "kind"), [(8.0, NO_SPACE), (10.0, None)])
def test_of_several_causes_the_first_one_counts(full_at: float, kind: object) -> None:
    culprit = RankFailure(error="ValueError: rank 6 has had enough", seconds=9.0)
    full = RankFailure(error="OSError: [Errno 28] No space left on device", seconds=full_at)
    assert kind_of_failures({0: LOST, 5: full, 6: culprit}) is kind


def test_a_killed_rank_is_reported_from_one_that_crashed_or_left_without_a_word() -> None:
    def ended(code: int) -> RankFailure:
        return RankFailure(exit_code=code)

    assert kind_of_failures({0: LOST, 2: ended(-signal.SIGKILL)}) is KILLED_RANK
    assert kind_of_failures({2: ended(-signal.SIGKILL)}, killed_for_memory=True) is KILLED_FOR_MEMORY
    assert kind_of_failures({0: LOST, 2: ended(-signal.SIGSEGV)}) is None
    assert kind_of_failures({0: LOST, 2: ended(1)}) is None
    assert kind_of_failures({0: LOST, 2: ended(-signal.SIGTERM)}) is TRANSPORT  # by the agent, afterwards
    assert kind_of_failures({}) is None


@pytest.mark.parametrize(
    "message",
    ["BrokenPipeError: [Errno 32] Broken pipe", "ConnectionResetError: [Errno 104] Connection reset by peer"],
)
def test_a_pipe_to_a_process_of_its_own_is_no_transport(message: str) -> None:
    """A checkpoint worker that fails is a failure of the training, and is not tried again."""
    assert kind_of(message) is None
