"""The picture of the architecture shows what there is."""

from __future__ import annotations

import re
import runpy

from PIL import Image

from tasks.util.files import REPOSITORY

SCRIPT = runpy.run_path(str(REPOSITORY / "docs/draw_architecture.py"))


def test_every_module_in_the_picture_exists() -> None:
    text = repr((SCRIPT["SESSION"], SCRIPT["BOXES"]))
    names = set(re.findall(r"(?<![\w/])(tasks/[a-z_/]+\.py|[a-z_]+\.py|Makefile)", text))
    places = {name: REPOSITORY / ("" if "/" in name else "tasks/ranks") / name for name in names}
    places |= {name: REPOSITORY / name for name in ("noxfile.py", "Makefile")}
    assert len(names) > 25
    assert [name for name, place in places.items() if not place.is_file()] == []


def test_the_picture_is_the_one_that_the_script_draws() -> None:
    with Image.open(SCRIPT["PICTURE"]) as picture:
        assert picture.info["Description"] == SCRIPT["content_digest"]()


def test_it_can_be_drawn(tmp_path) -> None:
    SCRIPT["draw"](tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 800
