"""Checks of a session on a CUDA host after installing; the libraries themselves are not needed."""

from __future__ import annotations

from tasks.ranks import gpu_libraries

ENGINE = {"transformer-engine-cu13"}


def test_what_fits_together() -> None:
    assert gpu_libraries.disagreements("13.0", ENGINE, (2, 31, 2)) == []
    assert gpu_libraries.disagreements("13.0", ENGINE, None) == []


def test_engine_of_another_cuda() -> None:
    assert "CUDA 12.8" in gpu_libraries.disagreements("12.8", ENGINE, (2, 31, 2))[0]


def test_nccl_that_cannot_share_a_gpu() -> None:
    assert "2.31" in gpu_libraries.disagreements("13.0", ENGINE, (2, 28, 9))[0]


def test_a_cudnn_that_torch_refuses_is_told_in_a_line_with_the_cure() -> None:
    def refuse() -> int:
        raise RuntimeError(
            "cuDNN version incompatibility: PyTorch was compiled against (9, 19, 0) but found runtime version"
            " (9, 14, 0). PyTorch already comes bundled with cuDNN. One option is"
        )

    problem = gpu_libraries.cudnn_problem(refuse)
    assert "(9, 14, 0): set CUDNN_HOME" in problem
    assert "\n" not in problem
    assert gpu_libraries.cudnn_problem(lambda: 91900) is None
