"""tasks/cases/corpus.py and tasks/ranks/index_corpus.py: text to a dataset, atomic, reused, checked."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tasks.cases import corpus as corpus_task
from tasks.cases.case import Corpus
from tasks.cases.corpus import build, digest, existing, source_files
from tasks.cases.loader import load_case
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import REPOSITORY
from tests.datasets import pair
from tests.program import answer_of, command_of

FILES = {"b.txt": b"second", "a/z.txt": b"\xff\x00not text", "a.txt": b"", "skipped.py": b"x"}
IN_ORDER = ["a.txt", "a/z.txt", "b.txt"]


def install(folder: Path) -> None:
    """A package named speech, as an installer would leave it."""
    for name, content in FILES.items():
        path = folder / "speech" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "speech/__init__.py").write_text("raise RuntimeError('a corpus is never imported')\n")
    (folder / "speech-1.0.dist-info").mkdir()
    (folder / "speech-1.0.dist-info/METADATA").write_text("Name: speech\nVersion: 1.0\n")


@pytest.fixture
def speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    stated = Corpus(package="speech", version="1.0", suffix=".txt", sha256="0" * 64)
    return dataclasses.replace(stated, sha256=digest(source_files(stated)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the finished dataset."""
    site, cache = (tmp_path_factory.mktemp("corpus") / name for name in ("site", "cache"))
    install(site)
    answer_of("corpora.build_speech_in_this_process", str(site), _stated_digest(site), str(cache))
    return cache


def _stated_digest(site: Path) -> str:
    return digest([(name, site / "speech" / name) for name in IN_ORDER])


def start_build(site: Path, cache: Path, sha256: str) -> subprocess.Popen:
    return subprocess.Popen(
        command_of("corpora.build_speech", [sha256, str(cache)], Path(os.devnull)),
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{site}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch, finished: Path) -> list[Path]:
    """Calls of the process that imports torch, replaced by a copy of the finished dataset."""
    calls: list[Path] = []
    (source,) = finished.glob("speech-*")

    def copy(folder: Path, files: object, sha256: str) -> None:
        calls.append(folder)
        shutil.copytree(source, folder)

    monkeypatch.setattr(corpus_task, "_write", copy)
    return calls


def test_files_come_in_the_order_of_their_paths(speech: Corpus) -> None:
    assert [name for name, _ in source_files(speech)] == IN_ORDER


def test_the_digest_covers_names_and_boundaries(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"ab")
    (tmp_path / "2").write_bytes(b"c")
    plain = digest([("1", tmp_path / "1"), ("2", tmp_path / "2")])
    assert plain != digest([("2", tmp_path / "1"), ("1", tmp_path / "2")])
    (tmp_path / "1").write_bytes(b"a")
    (tmp_path / "2").write_bytes(b"bc")
    assert plain != digest([("1", tmp_path / "1"), ("2", tmp_path / "2")])


def test_a_document_is_a_file_and_a_token_a_byte(finished: Path, speech: Corpus) -> None:
    built = build(speech, finished)
    lengths = [len(FILES[name]) + 1 for name in IN_ORDER]
    assert (built.documents, built.tokens) == (3, sum(lengths))
    assert answer_of("corpora.read", str(built.prefix)) == {
        "tokens are": "<class 'numpy.uint16'>",
        "documents": [0, 1, 2, 3],
        "sequences": [[*FILES[name], 256] for name in IN_ORDER],
    }


def test_the_main_cases_corpus_is_the_installed_one() -> None:
    case = load_case("gpt3_pp4_resume", platform_name="dgx_a100")
    files = source_files(case.corpus)
    assert digest(files) == case.corpus.sha256
    tokens = sum(path.stat().st_size + 1 for _, path in files)
    samples = case.model_args["--global-batch-size"] * case.model_args["--train-iters"]
    assert 0.949 * tokens > samples * case.model_args["--seq-length"], "a run would read some text twice"


def test_another_digest_than_stated_is_bad_input(speech: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"CORPUS\.sha256: the text of speech 1\.0 has digest"):
        build(dataclasses.replace(speech, sha256="1" * 64), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("speech*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2.0"}, "speech is 1.0, the case states 2.0"),
        ({"package": "no-such-package"}, "no-such-package is not installed"),
        ({"suffix": ".rst"}, "has no file that ends in .rst"),
    ],
)
def test_a_corpus_that_is_not_there(speech: Corpus, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(dataclasses.replace(speech, **changes), tmp_path / "cache")


def test_a_finished_dataset_is_not_built_again(speech: Corpus, tmp_path: Path, writes: list[Path]) -> None:
    first = build(speech, tmp_path / "cache")
    assert build(speech, tmp_path / "cache") == first
    assert len(writes) == 1
    assert first.prefix.is_absolute()


@pytest.mark.parametrize("name", ["text_document.bin", "text_document.idx", "built.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "removed"])
def test_a_damaged_dataset_is_built_again(
    speech: Corpus, tmp_path: Path, writes: list[Path], name: str, damage: str
) -> None:
    path = build(speech, tmp_path / "cache").prefix.parent / name
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if damage == "cut" else content.replace(content[2:10], b"damaged!", 1))
    build(speech, tmp_path / "cache")
    assert len(writes) == 2
    assert path.read_bytes() == content


@pytest.mark.usefixtures("writes")
def test_leftovers_of_a_killed_builder_are_neither_used_nor_kept(speech: Corpus, tmp_path: Path) -> None:
    leftover = tmp_path / "cache/.building-abc/new"
    leftover.mkdir(parents=True)
    (leftover / "text_document.bin").write_bytes(b"half")
    built = build(speech, tmp_path / "cache")
    assert built.tokens > 2
    assert not list((tmp_path / "cache").glob(".building-*"))


def test_a_cache_that_cannot_be_written(speech: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotRun, match="cannot be written"):
        build(speech, tmp_path / "file" / "cache")


def test_no_space(speech: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(corpus_task.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CannotRun, match="1 MiB are needed, 0 MiB are free"):
        build(speech, tmp_path / "cache")


def test_a_failed_builder_is_reported(
    speech: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_task.sys, "executable", "/bin/false")
    with pytest.raises(CannotRun, match="could not be written: no message"):
        build(speech, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("speech*"))


@pytest.mark.training
def test_builders_at_the_same_time_share_one_dataset(finished: Path, tmp_path: Path) -> None:
    install(tmp_path / "site")
    stated = _stated_digest(tmp_path / "site")
    builders = [start_build(tmp_path / "site", tmp_path / "cache", stated) for _ in range(3)]
    answers = [builder.communicate(timeout=120) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0], answers
    assert len({output for output, _ in answers}) == 1
    for name in ("text_document.bin", "text_document.idx"):
        (built,), (other,) = (cache.glob(f"speech-*/{name}") for cache in (tmp_path / "cache", finished))
        assert built.read_bytes() == other.read_bytes()


@pytest.mark.training
def test_a_killed_builder_leaves_the_next_one_alone(tmp_path: Path) -> None:
    install(tmp_path / "site")
    stated = _stated_digest(tmp_path / "site")
    victim = start_build(tmp_path / "site", tmp_path / "cache", stated)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/.building-*/new")) and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not list(tmp_path.glob("cache/speech*")), "the builder was too fast to be killed"
    next_one = start_build(tmp_path / "site", tmp_path / "cache", stated)
    _, errors = next_one.communicate(timeout=120)
    assert next_one.returncode == 0, errors


def test_a_users_own_dataset_is_described(finished: Path, speech: Corpus, tmp_path: Path) -> None:
    built = build(speech, finished)
    own = existing(built.prefix)
    assert own == dataclasses.replace(built, sha256=own.sha256)
    assert (own.documents, own.sequences) == (3, 3)
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{built.prefix}{suffix}", tmp_path / f"copy{suffix}")
    assert existing(tmp_path / "copy").sha256 == own.sha256
    with (tmp_path / "copy.bin").open("r+b") as file:
        file.write(b"X")
    assert existing(tmp_path / "copy").sha256 != own.sha256


def test_a_users_dataset_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*own\.bin"):
        existing(tmp_path / "own")
    (tmp_path / "own.bin").write_bytes(b"")
    (tmp_path / "own.idx").write_bytes(b"text")
    with pytest.raises(UsageError, match="is no Megatron index"):
        existing(tmp_path / "own")


def test_a_users_pair_of_files_belongs_together(tmp_path: Path) -> None:
    """An empty or torn pair is refused before any rank starts."""
    good = existing(pair(tmp_path / "good"))
    assert (good.documents, good.tokens) == (1, 2)
    assert existing(pair(tmp_path / "modes", tail=b"0")).tokens == 2
    for name, changes, message in (
        ("empty", {"tokens": b""}, "has 0 bytes, its index names 4"),
        ("longer", {"tokens": b"123456"}, "has 6 bytes, its index names 4"),
        ("none", {"head": (1, 8, 0, 1)}, "names no document"),
        ("old", {"head": (2, 8, 1, 2)}, "version 2 of Megatron's index"),
        ("cut", {"head": (1, 8, 1, 3)}, "is cut off, or no index"),
    ):
        with pytest.raises(UsageError, match=message):
            existing(pair(tmp_path / name, **changes))


@pytest.mark.parametrize("prefix", [".", "/", ""])
def test_a_prefix_that_names_no_file_is_bad_input(prefix: str) -> None:
    with pytest.raises(UsageError, match="give the prefix of a Megatron dataset"):
        existing(Path(prefix))
