"""report.html: one file, no network, everything escaped, shown by a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from tasks.judge.run import judge_run
from tasks.records.card_store import write_card
from tasks.reports.html import as_html, log_excerpt, write_pictures
from tasks.util.exits import UsageError
from tests.fake_run import FINGERPRINT, card, state, write_golden, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def failing(tmp_path):
    """A verdict with a fingerprint difference, a regression, and logs that hold markup."""
    golden = write_golden(tmp_path, fingerprint={**FINGERPRINT, "torch": "2.12.0<b>"})
    changed = card(
        51, change=lambda name, step, number: number * 1.01 if name == "lm loss" and step > 55 else number
    )
    run = write_run(tmp_path / "run", phase2=changed, record2={"state": {"50": state(rng="f" * 64)}})
    (run / "phase2").mkdir()
    for rank in range(8):
        (run / "phase2" / f"rank{rank}.log").write_text("quiet\n" * 100)
    (run / "phase2" / "rank3.log").write_text("start\nRuntimeError: <script>alert(1)</script>\nend\n")
    return judge_run(run, golden_file=golden, root=tmp_path)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_is_whole_and_needs_no_network(failing):
    page = as_html(failing, picture=b"png")
    tags = Tags(page)
    assert tags.open == []
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags.seen}
    sources = [attributes["src"] for tag, attributes in tags.seen if tag == "img"]
    assert sources == ["data:image/png;base64,cG5n"]
    assert not re.search(r"https?://|url\(|@import", page)
    for text in (
        "DOES NOT MATCH",
        "the restart did not restore all state",
        "torch",
        "2.12.0<b>",
        "first diff",
        "phase2/rank3.log",
        "<script>alert(1)</script>",
    ):
        assert text in tags.text, text
    assert "rank0.log" not in tags.text


def test_pictures_agree_with_the_last_diff(tmp_path):
    from tasks.diff import main

    golden = write_golden(tmp_path)
    run = write_run(tmp_path / "run")
    assert main(["--run-dir", str(run), "--golden", str(golden), "--steps", "1-80"]) == 0
    written = write_pictures(run, golden_file=golden)
    assert [path.name for path in written] == ["curves.png", "report.html"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "steps 1 to 80 only" in (run / "report.html").read_text()


def test_the_page_is_of_the_card_and_the_checks_that_the_last_diff_was_given(tmp_path):
    """As a session with --baseline: another card than that of the platform."""
    from tasks.diff import main

    other = write_golden(tmp_path)
    run = write_run(tmp_path / "run")
    assert main(["--run-dir", str(run), "--golden", str(other)]) == 0
    write_pictures(run)
    assert 'class="state passed">PASSED' in (run / "report.html").read_text()
    write_card(other, card(change=different_at_20))
    assert (
        main(["--run-dir", str(run), "--golden", str(other), "--policy", "megatron", "--check", "exact"]) == 1
    )
    write_pictures(run)
    assert "<td>approximate</td>" not in (run / "report.html").read_text()


def different_at_20(name, step, number):
    return number + 1.0 if (name, step) == ("lm loss", 20) else number


def test_no_page_of_before_outlives_the_next_verdict(tmp_path):
    from tasks.diff import main

    golden = write_golden(tmp_path)
    run = write_run(tmp_path / "run")
    words = ["--run-dir", str(run), "--golden", str(golden)]
    assert main(words) == 0
    write_pictures(run)
    write_card(run / "actual_phase1.json", card(change=different_at_20))
    assert main(words) == 1
    assert not list(run.glob("*.html")) + list(run.glob("*.png"))
    write_pictures(run)
    (run / "phase2.json").write_text("{")
    with pytest.raises(UsageError):
        write_pictures(run)
    assert not list(run.glob("*.html")) + list(run.glob("*.png"))


def test_log_excerpt_shows_the_first_alarm_or_the_end(tmp_path):
    log = tmp_path / "rank0.log"
    log.write_text("\n".join(f"line {number}" for number in range(1000)))
    assert log_excerpt(log).splitlines()[-1] == "line 999"
    assert len(log_excerpt(log).splitlines()) < 30
    log.write_text("a\nb\nc\nTraceback (most recent call last):\n" + "x\n" * 500)
    assert log_excerpt(log).startswith("b\nc\nTraceback")
    assert len(log_excerpt(log).splitlines()) < 30
    log.write_bytes(b"\xff\xfe broken \x00")
    assert "broken" in log_excerpt(log)
    log.write_text("")
    assert log_excerpt(log) == ""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_browser_shows_table_and_curves(failing, tmp_path):
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    page.write_text(as_html(failing))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1400,2400",
        f"--user-data-dir={tmp_path / 'p'}",
    ]
    subprocess.run(
        [CHROMIUM, *options, f"--screenshot={shot}", page.as_uri()],
        check=True,
        timeout=120,
        capture_output=True,
    )
    import matplotlib.image

    pixels = matplotlib.image.imread(shot)[..., :3]
    assert pixels.shape[:2] == (2400, 1400)
    badge = np.array([0xB3, 0x26, 0x1E]) / 255
    assert (np.abs(pixels[:200] - badge).max(axis=-1) < 0.02).sum() > 500, "no badge"
    golden_curve = np.array([0xE6, 0x9F, 0x00]) / 255 * 0.7 + 0.3
    assert (np.abs(pixels[600:] - golden_curve).max(axis=-1) < 0.05).sum() > 500, "no curves"
