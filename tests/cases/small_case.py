"""A small case, written to a folder for tests that load it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from tasks.cases.case import Case
from tasks.cases.loader import load_case
from tasks.util.exits import UsageError

CONTENT = {
    "ENV_VARS": {"NCCL_ALGO": "Ring"},
    "MODEL_ARGS": {
        "--num-layers": 12,
        "--hidden-size": 32,
        "--num-attention-heads": 4,
        "--seq-length": 64,
        "--max-position-embeddings": 64,
        "--micro-batch-size": 2,
        "--global-batch-size": 16,
        "--train-iters": 100,
        "--save-interval": 50,
        "--lr": 0.01,
        "--pipeline-model-parallel-size": 4,
        "--num-layers-per-virtual-pipeline-stage": 1,
    },
    "TEST_TYPE": "ckpt-resume",
    "METRICS": ["lm loss"],
}


def write_case(root: Path, content: dict | str, name: str = "small") -> Path:
    folder = root / "test_cases" / name
    folder.mkdir(parents=True)
    text = textwrap.dedent(content) if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    (folder / "model_config.yaml").write_text(text)
    return root


def changed(**sections: dict) -> dict:
    content = {key: dict(value) if isinstance(value, dict) else value for key, value in CONTENT.items()}
    for key, value in sections.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return content


def load(root: Path, *, platform_name: str = "cpu_x86_64", **options: object) -> Case:
    return load_case("small", platform_name=platform_name, root=root, **options)


def error_of(root: Path, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        load(root, **options)
    return str(caught.value)
