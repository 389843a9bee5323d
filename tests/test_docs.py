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
        r"^    trainwright (?:train|test|check|predict|browse-dataset|print-config)(?: --data)? (\S+)", text, re.M
    ):
        assert OWN.search(name) or find_named_config(name).is_relative_to(DOCS.parent / "configs"), name
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        ast.parse(block)


def test_pictures_are_small_and_shown() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for picture in sorted((DOCS / "images").iterdir()):
        assert picture.stat().st_size < 60_000, picture
        assert f"images/{picture.name}" in text, f"{picture} is on no page"


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    missing = [page.name for page in PAGES if page.stem != "index" and f"({page.name})" not in index]
    assert not missing, "link these pages in docs/index.md"


def test_every_task_has_a_page() -> None:
    tasks = {
        init.parent.name.replace("_", "-")
        for folder in ("models", "datasets")
        for init in (DOCS.parent / folder).glob("*/__init__.py")
    }
    missing = sorted(tasks - {"synthetic", "formats", "huggingface", "detectron2"} - {page.stem for page in PAGES})
    assert not missing, "describe these tasks in docs/<task>.md"
