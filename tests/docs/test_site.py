"""docs/ as a site: it builds offline, its links and anchors lead somewhere, it loads nothing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from orchestrator.commands.parser import make_parser

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
PARSER = make_parser()


class BuiltPage(HTMLParser):
    """What a built page loads, where its links lead, which ids it has, and its paragraphs."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.paragraphs: list[str] = []
        self._paragraph: list[str] | None = None
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        self.loads.add(found.get("src") or "")
        if address := found.get("href"):
            (self.links if tag == "a" else self.loads).add(address)
        if tag == "p":
            self._paragraph = []

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" and self._paragraph is not None:
            self.paragraphs.append("".join(self._paragraph))
            self._paragraph = None

    def handle_data(self, data: str) -> None:
        if self._paragraph is not None:
            self._paragraph.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, BuiltPage]:
    """The pages of the site, built by ``mkdocs build --strict`` without any network."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return {file: BuiltPage(file) for file in folder.rglob("*.html")}


def test_every_document_is_a_page(site: dict[Path, BuiltPage]) -> None:
    """No file of docs/ is left out; with strict a file that the navigation forgets is an error."""
    built = {file.stem for file in site}
    assert {page.stem for page in PAGES} <= built


def test_a_page_loads_nothing_from_elsewhere(site: dict[Path, BuiltPage]) -> None:
    """Scripts, styles and images are files of the site, and no style names an address."""
    loaded = {address for page in site.values() for address in page.loads}
    assert not [address for address in loaded if urlsplit(address).netloc]
    folder = min(site, key=lambda file: len(file.parts)).parent
    for style in folder.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\W*(https?:)?//", style.read_text(encoding="utf-8"))


def test_links_and_anchors_lead_somewhere(site: dict[Path, BuiltPage]) -> None:
    """Every link inside the site leads to a file of it, and every anchor to an id of that page.
    So does a link out of docs/, whose file is shown by a page of the site."""
    for file, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or file.name == "404.html":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            assert target.exists(), f"{file.name}: {link}"
            if parts.fragment:
                assert unquote(parts.fragment) in site[target].ids, f"{file.name}: {link}"


def test_lists_and_tables_are_not_swallowed_by_paragraphs(site: dict[Path, BuiltPage]) -> None:
    """A list right below a line of text is a list in the repository and none on the site."""
    for file, page in site.items():
        swallowed = [p for p in page.paragraphs if re.search(r"^\s*([-*|]|\d+\.) ", p, re.M)]
        assert not swallowed, f"{file.name}: {swallowed[0]}"


def test_files_that_pages_link_to_exist() -> None:
    """A link of a page, the README or CONTRIBUTING to a file of the repository leads to one."""
    for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def example_lines() -> list[str]:
    """Every ``eg-grpo`` line of a code block without a language."""
    found = set()
    for page in [*PAGES, ROOT / "README.md"]:
        # Pieces with an odd index are code blocks, the rest of their first line is the language.
        for block in re.split(r"^```", page.read_text(encoding="utf-8"), flags=re.M)[1::2]:
            language, _, text = block.partition("\n")
            if not language:
                words = (re.sub(r"^\$ |^\.venv/bin/", "", line) for line in joined(text))
                found |= {line for line in words if line.startswith("eg-grpo ")}
    return sorted(found)


def joined(text: str) -> list[str]:
    """The lines of a block; one that ends with a backslash goes on in the next."""
    return [line.strip() for line in text.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("line", example_lines())
def test_commands_of_the_pages_are_understood(line: str) -> None:
    """Every command in a code block has a name and flags that exist, and settings like
    ``key=value``."""
    _, overrides = PARSER.parse_known_args(shlex.split(line, comments=True)[1:])
    assert all(re.match(r"[a-z0-9_.]+=.", word) for word in overrides)


def test_every_command_is_on_its_page() -> None:
    """docs/commands.md has a row for each command of ``eg-grpo --help``."""
    (commands,) = (a.choices for a in PARSER._actions if isinstance(a.choices, dict))
    assert [name for name in commands if f"| `eg-grpo {name}" not in COMMANDS] == []
