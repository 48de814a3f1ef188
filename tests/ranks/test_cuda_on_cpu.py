"""The stand-in for CUDA, in processes of its own: it changes torch for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.util.files import REPOSITORY

INSTALLED = "from tasks.ranks import cuda_on_cpu\ncuda_on_cpu.install()\nimport torch\n"


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def printed(code: str) -> str:
    finished = python(INSTALLED + code)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_every_name_in_the_table_exists_in_the_pinned_torch_and_has_a_reason() -> None:
    code = """
from tasks.ranks.cuda_on_cpu import replacements
rows = replacements()
print([row.name for row in rows if not hasattr(row.owner, row.name)])
print([row.name for row in rows if not row.why])
keys = [(id(row.owner), row.name) for row in rows]
print(len(keys) == len(set(keys)), len(keys) > 40)
"""
    finished = python(code)
    assert finished.stdout.split("\n")[:3] == ["[]", "[]", "True True"], finished.stderr


def test_a_name_that_torch_no_longer_has_stops_the_installation() -> None:
    code = "import torch\ndel torch.cuda.empty_cache\n" + INSTALLED
    finished = python(code)
    assert finished.returncode != 0
    assert "empty_cache" in finished.stderr


def test_packages_with_kernels_for_gpus_alone_are_not_taken(tmp_path) -> None:
    for package in ("transformer_engine", "apex"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("__version__ = '2.20.2'")
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + INSTALLED
    code += "from megatron.core.extensions import transformer_engine as te\nprint(te.HAVE_TE)"
    finished = python(code)
    assert finished.stdout.strip().endswith("False"), finished.stderr


def test_it_refuses_a_cuda_host() -> None:
    finished = python("import torch\ntorch.cuda.is_available = lambda: True\n" + INSTALLED)
    assert "must not be installed on a CUDA host" in finished.stderr


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("torch.ones(2, device='cuda').device", "cpu"),
        ("torch.zeros(2, device=torch.cuda.current_device()).cuda().device", "cpu"),
        ("torch.ones(2).to('cuda').device", "cpu"),
        ("torch.ones(2, dtype=torch.bfloat16).type()", "torch.cuda.BFloat16Tensor"),
        ("torch.ones(2).type(torch.float64).dtype", "torch.float64"),
        ("torch.cuda.memory_stats()['allocated_bytes.all.current'] > 10**6", "True"),
        ("torch.cuda.memory_stats()['allocated_bytes.all.peak'] > 10**6", "True"),
        ("torch.cuda.memory_stats_as_nested_dict()['allocated_bytes']['all']['peak'] > 10**6", "True"),
        ("10**6 < torch.cuda.memory_allocated() <= torch.cuda.max_memory_allocated()", "True"),
        ("10**6 < torch.cuda.memory_reserved() <= torch.cuda.max_memory_reserved()", "True"),
    ],
)
def test_what_asks_for_cuda_gets_the_cpu(expression: str, value: str) -> None:
    assert printed(f"print({expression})") == value


def test_device_random_states_are_the_cpus() -> None:
    code = """
torch.manual_seed(3)
state = torch.cuda.get_rng_state()
first = torch.rand(3)
torch.cuda.set_rng_state(state)
print(torch.equal(first, torch.rand(3)))
"""
    assert printed(code) == "True"


def test_staging_for_a_checkpoint_copies() -> None:
    code = """
weights = torch.ones(3)
staged = cuda_on_cpu.stage_a_copy([("file", "key", ([], [("item", weights)]))])
weights.fill_(2.0)
print(staged[0][2][1][0][1].tolist())
"""
    assert printed(code) == "[1.0, 1.0, 1.0]"


def test_pages_of_files_are_no_memory_of_the_process() -> None:
    code = """
import mmap, tempfile
before = cuda_on_cpu.resident_bytes()
with tempfile.TemporaryFile() as file:
    file.write(bytes(2**26))
    file.flush()
    mapped = mmap.mmap(file.fileno(), 2**26, prot=mmap.PROT_READ)
    pages = sum(mapped[index] for index in range(0, 2**26, 4096))
    with_file = cuda_on_cpu.resident_bytes()
    own = torch.ones(2**24)
    with_own = cuda_on_cpu.resident_bytes()
    print(with_file - before < 2**22, 2**26 <= with_own - with_file < 2**26 + 2**22)
    del own
    print(cuda_on_cpu.peak_resident_bytes() - cuda_on_cpu.resident_bytes() > 2**25)
"""
    assert printed(code).split() == ["True", "True", "True"]
