"""A hook of MkDocs: a file of the repository that a page links to becomes a page of the site.

In the repository the link ``../examples/my_reward.py`` leads from a page of docs/ to the file. The
site holds docs/ alone, where the link would lead nowhere. So the hook adds a page that shows the
file, and the link leads to that page. Of a folder the page shows all files. A link to a file that
does not exist stays as it is, and MkDocs reports it.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\(\.\./([^)#\s]+)\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "sh", ".sbatch": "sh"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each linked file or folder."""
    root = Path(config.docs_dir).parent
    pages = [file.content_string for file in files.documentation_pages()]
    for target in sorted({target for text in pages for target in LINK.findall(text)}):
        if (root / target).exists():
            page = File.generated(config, _page_of(target), content=_shown(root, target))
            page.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links at the pages that were added."""

    def moved(link: re.Match[str]) -> str:
        uri = _page_of(link[1])
        return link[0] if files.get_file_from_path(uri) is None else f"]({uri})"

    return LINK.sub(moved, markdown)


def _page_of(target: str) -> str:
    return f"repository/{target.rstrip('/')}.md"


def _shown(root: Path, target: str) -> str:
    """The text of a page with the file, or with every file of the folder."""
    path = root / target
    parts = ["---\nsearch: {exclude: true}\n---\n", f"# {target}\n"]
    for file in sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]:
        if path.is_dir():
            parts.append(f"## {file.name}\n")
        language = LANGUAGES.get(file.suffix, "text")
        parts.append(f"~~~~ {language}\n{file.read_text(encoding='utf-8')}\n~~~~\n")
    return "\n".join(parts)
