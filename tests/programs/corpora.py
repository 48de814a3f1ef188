"""A dataset that is built from an installed package, and read by megatron."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tasks.cases import corpus
from tasks.cases.case import Corpus


def build_speech(sha256: str, cache: str) -> None:
    """Build the dataset of the package speech."""
    speech = Corpus(package="speech", version="1.0", suffix=".txt", sha256=sha256)
    print(corpus.build(speech, Path(cache)))


def build_speech_in_this_process(site: str, sha256: str, cache: str) -> None:
    """Build the dataset of the package in ``site`` without a process that imports torch anew."""

    def run(command: list[str], *, input: str, **_: object) -> SimpleNamespace:
        index_corpus.index_files(command[-1], input.split("\0"))
        return SimpleNamespace(returncode=0, stderr="")

    from tasks.ranks import index_corpus

    sys.path.insert(0, site)
    corpus.subprocess.run = run
    build_speech(sha256, cache)


def read(prefix: str) -> dict[str, Any]:
    """Documents, sequences and the kind of tokens of a dataset."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    data = IndexedDataset(prefix)
    return {
        "tokens are": str(data.index.dtype),
        "documents": data.document_indices.tolist(),
        "sequences": [data[index].tolist() for index in range(len(data))],
    }
