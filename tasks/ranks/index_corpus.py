"""Write files as a Megatron indexed dataset, one document each. A process of its own, since it imports torch.

``python -m tasks.ranks.index_corpus PREFIX``, with the paths on standard input, separated by NUL.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder, get_bin_path, get_idx_path

END_OF_DOCUMENT = 256


def index_files(prefix: str, paths: list[str]) -> None:
    """Write ``PREFIX.bin`` and ``PREFIX.idx``: a token is a byte (0 to 255), 256 ends a document."""
    builder = IndexedDatasetBuilder(get_bin_path(prefix), dtype=numpy.uint16)
    for path in paths:
        content = numpy.frombuffer(Path(path).read_bytes(), dtype=numpy.uint8)
        tokens = numpy.empty(content.size + 1, dtype=numpy.uint16)
        tokens[:-1] = content
        tokens[-1] = END_OF_DOCUMENT
        builder.add_document(tokens, [tokens.size])
    builder.finalize(get_idx_path(prefix))


if __name__ == "__main__":
    index_files(sys.argv[1], sys.stdin.read().split("\0"))
