"""Links, names and images in docs/ exist."""

import ast
import re
from pathlib import Path

import pytest

from trainwright.engine.config.paths import find_named_config

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OWN = re.compile(r"(^|/)my\w*(\.py)?$")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
        assert (DOCS / target).exists(), target
    for name in re.findall(
        r"^    trainwright (?:train|test|check|predict|browse-dataset|print-config) (\S+)", text, re.M
    ):
        assert OWN.search(name) or find_named_config(name).is_relative_to(DOCS.parent / "configs"), name
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        ast.parse(block)


def test_pictures_are_small_and_shown() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for picture in sorted((DOCS / "images").iterdir()):
        assert picture.stat().st_size < 60_000, picture
        assert f"images/{picture.name}" in text, f"{picture} is on no page"
