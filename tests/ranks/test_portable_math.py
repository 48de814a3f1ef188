"""The same bits, whatever path MKL takes on a processor: here it is told to take different ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import short_run
from tests.program import started_anew

# Of the 4096 results in float32, the beginning of a SHA-256: torch 2.13.0 and 2.11.0, on an AMD EPYC.
EVERYWHERE = {
    "sqrt": "f51b8a58e9d920a7",
    "exp": "b2e6731519c9595a",
    "log": "d0ce6db41c8aa5e6",
    "tanh": "86ca2cf3dae4fb57",
}


def computed(mkl_path: str, *, portable: bool = True) -> dict:
    """Results in a new process: torch reads the variables as it is imported."""
    variables = {"MKL_CBWR": mkl_path, "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    finished = started_anew("portable_math.results", portable, variables=variables)
    assert finished.exit_code == 0, finished.stderr
    return finished.answer


@pytest.fixture(scope="module")
def portable() -> dict:
    return computed("COMPATIBLE")


def test_the_bits_do_not_depend_on_the_path_of_mkl(portable) -> None:
    assert computed("AUTO")["digests"] == portable["digests"]


def test_the_bits_in_which_ranks_compute_are_those_of_every_processor(portable) -> None:
    found = {name.split()[0]: d[:16] for name, d in portable["digests"].items() if name.endswith("float32")}
    assert found == EVERYWHERE


def test_torchs_own_square_roots_are_not_ieees() -> None:
    # When this fails, torch no longer needs replacing: remove the module. On an Intel Xeon all of torch's own
    # results also change with the path; on an AMD EPYC MKL takes the same one whatever it is told.
    assert computed("COMPATIBLE", portable=False)["wrong square roots"] > 0


def test_square_roots_are_ieees_and_the_others_within_one_unit_in_the_last_place(portable) -> None:
    assert portable["wrong square roots"] == 0
    assert all(error <= (0.5 if "sqrt" in name else 2.0) for name, error in portable["errors"].items())


def test_all_forms_agree_and_gradients_flow(portable) -> None:
    assert portable["forms agree"]
    assert portable["gradient"] < 1e-6


def test_edges_and_kinds_are_those_of_torch(portable) -> None:
    assert portable["edges"] == ["[nan, 0.0]", "[-inf, 0.0]", "[1.0, -1.0, 0.0]", "[inf, 0.0]"]
    assert portable["kinds"] == ["torch.bfloat16", "torch.float32"]
    assert portable["shape"] == [2, 3, 1]


@pytest.mark.training
def test_training_does_not_depend_on_the_path_of_mkl(trained: Path, tmp_path: Path) -> None:
    case = tmp_path / "another_path" / "model_config.yaml"
    case.parent.mkdir()
    case.write_text(f"INHERIT: {short_run.CASE}\nENV_VARS:\n  MKL_CBWR: AVX2\n")
    finished = short_run.run("train", tmp_path / "run", case=case)
    assert finished.returncode == 0, finished.stdout
    # In four iterations losses would hide what differs; the fp32 weights and moments do not.
    ours, other = (
        json.loads((run / "phase1.json").read_text())["state"] for run in (trained, tmp_path / "run")
    )
    assert len(ours["2"]) == 8
    assert ours == other
