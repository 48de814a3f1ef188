"""Computes the same attention again and again in processes that share a GPU, and counts results that part.

``python benchmarks/attention_again.py [--processes 8] [--seconds 35] [--calm] [--allocator CONF]``: every
process computes one layer's attention of the main case (Transformer Engine's, with dropout from the same
seed) and a matrix product beside it, and compares their bits with the first time. Meanwhile it asks for
memory, gives it back and copies to the GPU; ``--calm`` leaves that out. ``--allocator`` takes the place of
the case's PYTORCH_CUDA_ALLOC_CONF. What parted is printed; exits 1 then. ``CUDNN_HOME`` and
``CRASH_TEST_MPS`` are heeded as in a run. Without a GPU it is torch's attention, on the CPU.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tasks.cases.loader import load_case  # noqa: E402
from tasks.machine import cudnn, mps, platforms  # noqa: E402
from tasks.util.exits import TrainingFailed, UsageError, exit_with  # noqa: E402

if TYPE_CHECKING:
    import torch

CASE = "gpt3_pp4_resume"
MICRO_BATCH, HEADS, CHANNELS, DROPOUT = 4, 8, 64, 0.1
LOOK_EVERY = 100  # repetitions: asking the device makes the host wait
GIVE_BACK_EVERY = 25
MOST_LINES = 5  # of a process


class Watch:
    """Compares what is computed again with the first time, on the device, without the host waiting."""

    def __init__(self, first: dict[str, torch.Tensor]) -> None:
        import torch

        self.times = 0
        self._first = {name: _bits(values).clone() for name, values in first.items()}
        self._last = {name: torch.zeros_like(values) for name, values in self._first.items()}
        self._counts = {name: values.new_zeros((), dtype=torch.int64) for name, values in self._first.items()}

    def compare(self, again: dict[str, torch.Tensor]) -> None:
        """Remember how many of these parted, and the last one that did."""
        for name, first in self._first.items():
            bits = _bits(again[name])
            parted = (bits != first).any()
            self._counts[name] += parted
            self._last[name] = bits.where(parted, self._last[name])

    def parted(self) -> list[str]:
        """A line for each kind of result that parted since the last call; the host waits for the device."""
        lines = []
        for name, count in self._counts.items():
            if times := int(count):
                self.times += times
                where = (self._last[name] != self._first[name]).nonzero()
                first, last = (str(tuple(where[index].tolist())) for index in (0, -1))
                values = [hex(v & 0xFFFF) for v in self._last[name][tuple(where.T)].unique().tolist()[:4]]
                lines.append(f"{name} parted in {len(where)} values, {first} to {last}: {', '.join(values)}")
                count.zero_()
        return lines


def _bits(values: torch.Tensor) -> torch.Tensor:
    import torch

    return values.detach().contiguous().view(torch.int16)


def computation(device: str, sequence: int) -> Callable[[], dict[str, torch.Tensor]]:
    """The attention of one layer and one micro-batch, and the first matrix product of its MLP; both bf16."""
    import torch

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    if device == "cuda":
        import transformer_engine.pytorch as te

        attention = te.DotProductAttention(
            HEADS, CHANNELS, attention_dropout=DROPOUT, attn_mask_type="causal", qkv_format="sbhd"
        )
    else:

        def attention(*parts: torch.Tensor) -> torch.Tensor:
            query, key, value = (part.permute(1, 2, 0, 3) for part in parts)
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, dropout_p=DROPOUT, is_causal=True
            )

    mixed = normal(sequence, MICRO_BATCH, HEADS, 3 * CHANNELS)
    hidden = normal(sequence * MICRO_BATCH, HEADS * CHANNELS)
    weight = normal(HEADS * CHANNELS, 4 * HEADS * CHANNELS)

    def compute() -> dict[str, torch.Tensor]:
        torch.manual_seed(7)  # the same dropout
        return {
            "attention": attention(*mixed.split(CHANNELS, dim=-1)),
            "matrix product": torch.nn.functional.gelu(hidden @ weight),
        }

    return compute


def repeat(process: int, device: str, options: argparse.Namespace, answers: SimpleQueue) -> None:
    """Compute for so long; the answer is how often, and what parted."""
    import torch

    torch.manual_seed(process)
    compute = computation(device, options.sequence)
    watch = Watch(compute())
    on_host, held, repetitions, lines = torch.zeros(4, 1024), [], 0, []
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        watch.compare(compute())
        repetitions += 1
        if not options.calm:
            on_host.to(device)
            size = (1 + (7 * repetitions + 3 * process) % 13) << 22  # bytes
            held.append(torch.empty(size, dtype=torch.uint8, device=device))
            if repetitions % GIVE_BACK_EVERY == 0:
                held.clear()
                torch.cuda.empty_cache()
        if repetitions % LOOK_EVERY == 0:
            lines += watch.parted()
    lines += watch.parted()
    answers.put((process, repetitions, watch.times, lines[:MOST_LINES]))


def repeat_in_processes(device: str, options: argparse.Namespace) -> list[tuple[int, int, int, list[str]]]:
    """Of every process: its number, how often it computed, how often that parted, and lines on it."""
    forks = multiprocessing.get_context("fork")
    answers = forks.SimpleQueue()
    work = [
        forks.Process(target=repeat, args=(process, device, options, answers))
        for process in range(options.processes)
    ]
    for each in work:
        each.start()
    for each in work:
        each.join()
    if failed := [each.exitcode for each in work if each.exitcode]:
        raise TrainingFailed(
            f"{len(failed)} of {len(work)} processes failed, with exit code {failed[0]}: see above"
        )
    return sorted(answers.get() for _ in work)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=35.0)
    parser.add_argument("--sequence", type=int, default=1024, help="tokens of a sample")
    parser.add_argument("--calm", action="store_true", help="no memory is asked for, nothing copied")
    parser.add_argument("--allocator", metavar="CONF", help="PYTORCH_CUDA_ALLOC_CONF (default: the case's)")
    options = parser.parse_args(argv)
    platform = platforms.detect()
    os.environ |= platform.variables(load_case(CASE, platform_name=platform.name).env_vars)
    if options.allocator is not None:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = options.allocator
    on_gpu = platform.device == "cuda"
    with mps.daemon(wanted=on_gpu and options.processes > 1) as daemon:
        if on_gpu:
            cudnn.preload_library()
            daemon.join(print)
            importlib.import_module("transformer_engine.pytorch")  # once, for all that are forked
        results = repeat_in_processes(platform.device, options)
    for process, _, _, lines in results:
        for line in lines:
            print(f"process {process}: {line}")
    repetitions, parted = (sum(result[column] for result in results) for column in (1, 2))
    if not repetitions:
        raise UsageError("nothing was computed: give --processes and --seconds more than 0")
    computed_by = f"cuDNN {cudnn.version()}" if on_gpu else "torch on the CPU"
    if options.allocator is not None:
        computed_by += f", {os.environ['PYTORCH_CUDA_ALLOC_CONF']}"
    print(f"{repetitions} repetitions in {options.processes} processes, {computed_by}: {parted} parted")
    return int(parted > 0)


if __name__ == "__main__":
    exit_with(main)
