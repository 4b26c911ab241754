"""What MkDocs calls while it builds the site: brings in the pages beside docs/ and those that are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

import reference
import repository

_AXES = "axes"  # in the navigation: a page of each axis


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the axes into the navigation."""
    config.nav = [_with_axes(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages, and what pages link to outside of docs/."""
    for name, text in reference.pages().items():
        files.append(File.generated(config, name, content=text))
    pages = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    for path in repository.linked_from(pages):
        files.append(_file(config, path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links to places in the repository links of the site."""
    source = page.file.abs_src_path
    path = Path(source) if source else repository.DOCS / page.file.src_uri
    note = reference.note_of(page.file.src_uri)
    return repository.with_links_of_site(markdown.replace("\n", f"\n{note}", 1), path, page.file.src_uri)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name what the theme leaves without a name for those who are read to."""
    named = output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )
    return named.replace("<th></th>", "<td></td>")


def _file(config: MkDocsConfig, path: Path) -> File:
    """A page or picture of the site that is not named by the navigation."""
    name, hidden = repository.site_path(path), InclusionLevel.NOT_IN_NAV
    if path.is_file() and path.suffix in repository.AS_THEY_ARE:
        return File.generated(config, name, abs_src_path=str(path), inclusion=hidden)
    return File.generated(config, name, content=repository.as_page(path), inclusion=hidden)


def _with_axes(entry: Any) -> Any:
    if entry == {"Options": _AXES}:
        return {"Options": [{name: page} for name, page in reference.axis_pages().items()]}
    if isinstance(entry, dict):
        return {
            title: [_with_axes(each) for each in inner] if isinstance(inner, list) else inner
            for title, inner in entry.items()
        }
    return entry
