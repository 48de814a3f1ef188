"""Real text as a Megatron indexed dataset: a ``.bin`` of tokens and an ``.idx`` of documents.

One document a file, one token a byte, and one more token that ends the document. A finished dataset
appears in the cache under its own digest, all at once, and is checked before it is used again.
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
BYTES_PER_TOKEN = 2  # uint16: 256 bytes and the end of a document do not fit in eight bits
_STEM = "text_document"
_MANIFEST = "built.json"
_INDEX_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type of a token, sequences, documents
_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}  # megatron-core's codes: 8 is uint16
_SAMPLED_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Built:
    """A dataset on disk. ``prefix`` with ``.bin`` or ``.idx`` behind it are its two files.

    ``sequences``: what ``--split`` counts; a document may have several.
    """

    prefix: Path
    sha256: str
    documents: int
    sequences: int
    tokens: int


def build(corpus: Corpus, cache_dir: Path = DEFAULT_CACHE) -> Built:
    """The dataset of ``corpus``, from the cache, or built there.

    Raises:
        UsageError: the package is not installed in this version, or its text has another digest.
        CannotRun: no space, or the cache cannot be written.
    """
    cache_dir = cache_dir.resolve()
    target = cache_dir / f"{corpus.package}-{corpus.version}-{corpus.sha256[:16]}"
    if (built := _reusable(target, corpus.sha256)) is not None:
        return built
    with _cannot_run_without_disk(cache_dir), _lock(cache_dir):
        if (built := _reusable(target, corpus.sha256)) is not None:  # another process was first
            return built
        files = source_files(corpus)
        _check_digest(corpus, digest(files))
        _check_space(cache_dir, files)
        _remove_leftovers(cache_dir)
        with tempfile.TemporaryDirectory(
            dir=cache_dir, prefix=".building-", ignore_cleanup_errors=True
        ) as folder:
            _write(Path(folder) / "new", files, corpus.sha256)
            if target.exists():  # damaged, or _reusable had taken it
                target.rename(Path(folder) / "damaged")
            (Path(folder) / "new").rename(target)
    built = _reusable(target, corpus.sha256)
    if built is None:
        raise CannotRun(f"{target}: was written but does not read back as written; check the disk")
    return built


def existing(prefix: Path) -> Built:
    """A user's own dataset, from its two files.

    Its digest covers the index, the size of the tokens and their first and last MiB: reading terabytes before
    each run would cost more than it tells.

    Raises:
        UsageError: a file is missing, or is no indexed dataset.
    """
    tokens_file, index_file = _files(prefix)
    for file in (tokens_file, index_file):
        if not file.is_file():
            raise UsageError(
                f"--data-path {prefix}: there is no {file}; give the prefix of a Megatron dataset,"
                " its two files without .bin and .idx"
            )
    index = index_file.read_bytes()
    documents, sequences, token_bytes = _read_index(index_file, index)
    size = tokens_file.stat().st_size
    if size != (stated := _stated_size(index, token_bytes)):
        raise UsageError(
            f"{tokens_file}: has {size} bytes, its index names {stated}: put both files there again, as they"
            " were written together"
        )
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
    """Relative POSIX path and place of each file of the corpus, sorted by the path's bytes.

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
    files = [
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob(f"*{corpus.suffix}")
        if path.is_file()
    ]
    if not files:
        raise UsageError(f"CORPUS: {corpus.package} has no file that ends in {corpus.suffix}")
    return sorted(files, key=lambda file: file[0].encode())


def digest(files: list[tuple[str, Path]]) -> str:
    """SHA-256 over path, size and bytes of each file in turn."""
    hashed = hashlib.sha256()
    for name, path in files:
        content = path.read_bytes()
        hashed.update(f"{name}\0{len(content)}\0".encode())
        hashed.update(content)
    return hashed.hexdigest()


def _check_digest(corpus: Corpus, actual: str) -> None:
    if actual != corpus.sha256:
        raise UsageError(
            f"CORPUS.sha256: the text of {corpus.package} {corpus.version} has digest {actual},"
            f" the case states {corpus.sha256}; install the package anew, or state the new digest"
            " and record the golden cards again"
        )


def _check_space(cache_dir: Path, files: list[tuple[str, Path]]) -> None:
    needed = BYTES_PER_TOKEN * sum(path.stat().st_size + 1 for _, path in files) + 2**20
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise CannotRun(f"{cache_dir}: {needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free")


def _write(folder: Path, files: list[tuple[str, Path]], sha256: str) -> None:
    folder.mkdir()
    prefix = folder / _STEM
    # megatron-core's builder imports torch, which only happens in a process of its own
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
    """The dataset in ``folder`` when it is complete and unharmed: its files have the digests written down."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        unharmed = all(file_sha256(folder / name) == expected for name, expected in manifest["files"].items())
        if not unharmed or manifest["sha256"] != sha256:
            return None
        documents, tokens = manifest["documents"], manifest["tokens"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Built(
        prefix=folder / _STEM, sha256=sha256, documents=documents, sequences=documents, tokens=tokens
    )


def _files(prefix: Path) -> tuple[Path, Path]:
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


def _read_index(path: Path, index: bytes) -> tuple[int, int, int]:
    """Number of documents and of sequences, and bytes of a token."""
    if len(index) < _INDEX_HEADER.size or not index.startswith(_INDEX_MAGIC):
        raise UsageError(f"{path}: is no Megatron index")
    _, version, code, sequences, boundaries = _INDEX_HEADER.unpack_from(index)
    if version != 1:
        raise UsageError(f"{path}: version {version} of Megatron's index; only 1 is known")
    if code not in _TOKEN_BYTES:
        raise UsageError(f"{path}: unknown type of token {code}")
    if sequences < 1 or boundaries < 2:
        raise UsageError(f"{path}: names no document: there is nothing to train on")
    rest = len(index) - _INDEX_HEADER.size
    if rest not in (plain := sequences * 12 + boundaries * 8, plain + sequences):  # with a mode of each
        raise UsageError(
            f"{path}: is cut off, or no index: {sequences} sequences take {plain} bytes behind the head,"
            f" there are {rest}"
        )
    return boundaries - 1, sequences, _TOKEN_BYTES[code]


def _stated_size(index: bytes, token_bytes: int) -> int:
    """Bytes of the tokens by their index: where the last sequence begins, and its length."""
    sequences = _INDEX_HEADER.unpack_from(index)[3]
    lengths_end = _INDEX_HEADER.size + 4 * sequences
    (length,) = struct.unpack_from("<i", index, lengths_end - 4)
    (begin,) = struct.unpack_from("<q", index, lengths_end + 8 * (sequences - 1))
    return begin + length * token_bytes


@contextlib.contextmanager
def _lock(cache_dir: Path) -> Iterator[None]:
    """One builder at a time; the kernel opens the lock when its holder dies."""
    with (cache_dir / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _cannot_run_without_disk(cache_dir: Path) -> Iterator[None]:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CannotRun(f"{cache_dir}: cannot be written: {error.strerror or error}") from error


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove the folders of builders that were killed; the lock is held, so no builder is at work in them."""
    for folder in cache_dir.glob(".building-*"):
        shutil.rmtree(folder, ignore_errors=True)
