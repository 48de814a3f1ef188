"""Build a Megatron indexed dataset (``.bin`` with tokens, ``.idx`` with documents) from a package's text.

A file is a document, a byte a token, and one more token ends the document. A finished dataset is renamed into
the cache under its digest, and its files are checked before each use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.cases.case import Corpus
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import REPOSITORY, file_sha256

DEFAULT_CACHE = REPOSITORY / "data"
_BYTES_PER_TOKEN = 2  # uint16: 256 byte values and the end of a document
_STEM = "text_document"
_MANIFEST = "built.json"
_INDEX_HEADER = struct.Struct("<9sQBQQ")  # magic, version, token type, sequences, document boundaries
_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}  # megatron-core's codes: 8 is uint16
_SAMPLED_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Built:
    """A dataset on disk: ``prefix``.bin and ``prefix``.idx.

    ``sequences``: the unit of ``--split``; a document may have several.
    """

    prefix: Path
    sha256: str
    documents: int
    sequences: int
    tokens: int


def build(corpus: Corpus, cache_dir: Path = DEFAULT_CACHE) -> Built:
    """The dataset of ``corpus``, built in the cache unless it is there.

    Raises:
        UsageError: the package is not installed in this version, or its text has another digest.
        CannotRun: the disk is full, or the cache cannot be written.
    """
    cache_dir = cache_dir.resolve()
    target = cache_dir / f"{corpus.package}-{corpus.version}-{corpus.sha256[:16]}"
    if (built := _reusable(target, corpus.sha256)) is not None:
        return built
    with _locked(cache_dir):
        if (built := _reusable(target, corpus.sha256)) is not None:  # another process was first
            return built
        files = source_files(corpus)
        _check(corpus, files, cache_dir)
        for leftover in cache_dir.glob(".building-*"):  # of a killed builder: the lock is held
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            dir=cache_dir, prefix=".building-", ignore_cleanup_errors=True
        ) as folder:
            _write(Path(folder) / "new", files, corpus.sha256)
            if target.exists():  # damaged, else _reusable had returned it
                target.rename(Path(folder) / "damaged")
            (Path(folder) / "new").rename(target)
    built = _reusable(target, corpus.sha256)
    if built is None:
        raise CannotRun(f"{target}: differs from what was just written; check the disk")
    return built


def existing(prefix: Path) -> Built:
    """A user's own dataset. Its digest covers the index, and size, first and last MiB of the tokens.

    Raises:
        UsageError: a file is missing, or is no indexed dataset.
    """
    tokens_file, index_file = _files(prefix)
    for file in (tokens_file, index_file):
        if not file.is_file():
            raise UsageError(
                f"--data-path {prefix}: there is no {file}; give the prefix of a Megatron dataset, the path"
                " without .bin and .idx"
            )
    index = index_file.read_bytes()
    documents, sequences, token_bytes = _read_index(index_file, index)
    size = tokens_file.stat().st_size
    if size != (stated := _stated_size(index, token_bytes)):
        raise UsageError(f"{tokens_file}: has {size} bytes, its index names {stated}: copy both files again")
    hashed = hashlib.sha256(index + str(size).encode())
    with tokens_file.open("rb") as file:
        hashed.update(file.read(_SAMPLED_BYTES))
        file.seek(max(0, size - _SAMPLED_BYTES))
        hashed.update(file.read())
    return Built(
        prefix=prefix,
        sha256=hashed.hexdigest(),
        documents=documents,
        sequences=sequences,
        tokens=size // token_bytes,
    )


def source_files(corpus: Corpus) -> list[tuple[str, Path]]:
    """Relative POSIX path and location of each file of the corpus, sorted by the bytes of the former.

    Raises:
        UsageError: the package is not installed in this version, or has no such file.
    """
    try:
        installed = importlib.metadata.version(corpus.package)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    spec = importlib.util.find_spec(corpus.package) if installed else None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"CORPUS: {corpus.package} is not installed; it is pinned in requirements.txt")
    if installed != corpus.version:
        raise UsageError(f"CORPUS: {corpus.package} is {installed}, the case states {corpus.version}")
    folder = Path(spec.submodule_search_locations[0])
    paths = [path for path in folder.rglob(f"*{corpus.suffix}") if path.is_file()]
    files = [(path.relative_to(folder).as_posix(), path) for path in paths]
    if not files:
        raise UsageError(f"CORPUS: {corpus.package} has no file that ends in {corpus.suffix}")
    return sorted(files, key=lambda file: file[0].encode())


def digest(files: list[tuple[str, Path]]) -> str:
    """SHA-256 over path, size and bytes of each file, in order."""
    hashed = hashlib.sha256()
    for name, path in files:
        content = path.read_bytes()
        hashed.update(f"{name}\0{len(content)}\0".encode())
        hashed.update(content)
    return hashed.hexdigest()


def _check(corpus: Corpus, files: list[tuple[str, Path]], cache_dir: Path) -> None:
    """Compare the text with its stated digest, and the size of its dataset with the free space."""
    if (actual := digest(files)) != corpus.sha256:
        raise UsageError(
            f"CORPUS.sha256: the text of {corpus.package} {corpus.version} has digest {actual}, the case"
            f" states {corpus.sha256}; reinstall the package, or state the new digest and record the golden"
            " cards again"
        )
    needed = _BYTES_PER_TOKEN * sum(path.stat().st_size + 1 for _, path in files) + 2**20
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise CannotRun(f"{cache_dir}: {needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free")


def _write(folder: Path, files: list[tuple[str, Path]], sha256: str) -> None:
    folder.mkdir()
    prefix = folder / _STEM
    # A separate process: megatron-core's builder imports torch.
    outcome = subprocess.run(
        [sys.executable, "-m", "tasks.ranks.index_corpus", str(prefix)],
        input="\0".join(str(path) for _, path in files),
        text=True,
        capture_output=True,
        cwd=REPOSITORY,
        check=False,
    )
    if outcome.returncode:
        last_line = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotRun(f"{prefix}: the dataset could not be written: {last_line}")
    tokens_file, index_file = _files(prefix)
    documents, _, token_bytes = _read_index(index_file, index_file.read_bytes())
    manifest = {
        "sha256": sha256,
        "documents": documents,
        "tokens": tokens_file.stat().st_size // token_bytes,
        "files": {file.name: file_sha256(file) for file in (tokens_file, index_file)},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _reusable(folder: Path, sha256: str) -> Built | None:
    """The dataset in ``folder``, None when its files differ from its manifest."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        intact = all(file_sha256(folder / name) == expected for name, expected in manifest["files"].items())
        if not intact or manifest["sha256"] != sha256:
            return None
        sizes = {"documents": manifest["documents"], "tokens": manifest["tokens"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Built(prefix=folder / _STEM, sha256=sha256, sequences=sizes["documents"], **sizes)


def _files(prefix: Path) -> tuple[Path, Path]:
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


def _read_index(path: Path, index: bytes) -> tuple[int, int, int]:
    """Number of documents, number of sequences, bytes per token."""
    if len(index) < _INDEX_HEADER.size or not index.startswith(_INDEX_MAGIC):
        raise UsageError(f"{path}: is no Megatron index")
    _, version, code, sequences, boundaries = _INDEX_HEADER.unpack_from(index)
    if version != 1:
        raise UsageError(f"{path}: version {version} of Megatron's index; only 1 is known")
    if code not in _TOKEN_BYTES:
        raise UsageError(f"{path}: unknown token type {code}")
    if sequences < 1 or boundaries < 2:
        raise UsageError(f"{path}: names no document: there is nothing to train on")
    rest = len(index) - _INDEX_HEADER.size
    if rest not in (plain := sequences * 12 + boundaries * 8, plain + sequences):  # with a mode of each
        raise UsageError(
            f"{path}: is cut off, or no index: {sequences} sequences take {plain} bytes after the header,"
            f" there are {rest}"
        )
    return boundaries - 1, sequences, _TOKEN_BYTES[code]


def _stated_size(index: bytes, token_bytes: int) -> int:
    """Bytes of the tokens according to the index: begin and length of the last sequence."""
    sequences = _INDEX_HEADER.unpack_from(index)[3]
    lengths_end = _INDEX_HEADER.size + 4 * sequences
    (length,) = struct.unpack_from("<i", index, lengths_end - 4)
    (begin,) = struct.unpack_from("<q", index, lengths_end + 8 * (sequences - 1))
    return begin + length * token_bytes


@contextlib.contextmanager
def _locked(cache_dir: Path) -> Iterator[None]:
    """Admit one builder at a time; the kernel releases the lock when its holder dies.

    Raises:
        CannotRun: the cache cannot be written.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with (cache_dir / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise CannotRun(f"{cache_dir}: cannot be written: {error.strerror or error}") from error
