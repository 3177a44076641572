"""Sphinx's configuration of the pages: `make docs`.

The pages are plain Markdown that people also read without the site. So links between pages are paths in the repository,
for which the source directory is the checkout. Pages contain nothing for Sphinx either: it gets the tables of contents
from the lists of links in docs/index.md.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

project = "Celery Fleet"
author = "the authors of Celery Fleet"
project_copyright = "the authors of Celery Fleet"

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "README.md",
    "CHANGELOG.md",
    "inventories/README.md",
    "examples/*/README.md",
    "roles/*/README.md",
]
# Sphinx would search them even though nothing in them is included.
exclude_patterns = [
    *(".*", "molecule", "playbooks", "plugins", "requirements", "scripts", "src", "templates"),
    *("tests", "examples/*/*[!.]/*/*"),
]
# Headings get the anchors that GitHub and GitLab give them.
myst_heading_anchors = 4
# An indented block is as often commands and their output as it is code.
highlight_language = "none"

html_theme = "furo"
html_title = "Celery Fleet"
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["site"]
html_css_files = ["site.css"]
html_extra_path = ["site/index.html"]
html_copy_source = False
html_show_sphinx = False

_PART = re.compile(r"^## (.+)$")
_PAGE = re.compile(r"^- \[([^\]]+)\]\(([^)#]+)\.md\)")


def contents(text: str) -> str:
    """Return the tables of contents of a page: each heading with the pages that its list links to."""
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if found := _PART.match(line):
            parts.append((found[1], []))
        elif parts and (found := _PAGE.match(line)):
            parts[-1][1].append(f"{found[1]} <{found[2]}>")
    return "\n".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```"
        for title, pages in parts
        if pages
    )


def _add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    if name in (root_doc, "docs/reference"):
        source[0] += contents(source[0])


def setup(app: Sphinx) -> None:
    """Connect the hook; Sphinx calls this."""
    app.connect("source-read", _add_contents)
