"""Machines as their tools describe them: no GPU is needed."""

from __future__ import annotations

from tasks.machine.platforms import Gpu, Platform, choose, parse_gpus, parse_processor

EPYC = parse_processor(
    "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu avx fma avx2 bmi2\n\nprocessor\t: 1\n",
    system="Linux",
    machine="x86_64",
)


def smi(name: str, *, count: int = 1, memory: str, capability: str, mig: str = "[N/A]") -> str:
    """nvidia-smi's answer for a host with GPUs of one kind."""
    return "".join(
        f"{index}, GPU-{index}f9a2c31-7c51, {name}, {memory}, {capability}, 580.95.05, {mig}\n"
        for index in range(count)
    )


DGX_A100 = smi("NVIDIA A100-SXM4-80GB", count=8, memory="81920", capability="8.0", mig="Disabled")


DGX_H100 = smi("NVIDIA H100 80GB HBM3", count=8, memory="81559", capability="9.0", mig="Disabled")


GB200 = smi("NVIDIA GB200", count=4, memory="189471", capability="10.0", mig="Disabled")


ONE_H100 = smi("NVIDIA H100 80GB HBM3", memory="81559", capability="9.0", mig="Disabled")


LAPTOP = smi("NVIDIA GeForce RTX 3060 Laptop GPU", memory="6144", capability="8.6")


def chosen(text: str, *, wanted: str = "auto", environment_name: str = "dev") -> Platform:
    return choose(parse_gpus(text), wanted=wanted, environment_name=environment_name, processor=EPYC)


H100 = Gpu(
    index=0,
    uuid="GPU-1",
    name="NVIDIA H100 80GB HBM3",
    memory_mib=81559,
    compute_capability=9.0,
    driver="580",
)
