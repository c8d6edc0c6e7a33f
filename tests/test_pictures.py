"""The pictures of the docs are what their script draws."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


def test_the_pictures_are_up_to_date_and_named_for_screen_readers(tmp_path):
    subprocess.run([sys.executable, str(ROOT / "scripts" / "draw_method.py"), str(tmp_path)], check=True)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert drawn == kept and drawn
    assert all(ElementTree.fromstring(text).get("aria-label") for text in drawn.values())
    page = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    assert all(f"](pictures/{name})" in page for name in drawn)
