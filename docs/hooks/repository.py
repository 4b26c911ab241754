"""Files of the repository that lie beside docs/ and that pages link to: each becomes a page of the site."""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
AS_THEY_ARE = (".md", ".png", ".svg")  # everything else is shown as a block of code on a page of its own
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".jsonl": "json", ".toml": "toml"}
_LONGEST = 200_000  # bytes of a file that is shown as a whole
# What a generated page shows, beside the folders of conf/.
_GENERATED = {
    ROOT / "conf" / "config.yaml": "reference/settings.md",
    ROOT / "src" / "ablab" / "results" / "record.py": "reference/record.md",
    ROOT / "src" / "ablab" / "cli": "reference/command_line.md",
}


def site_path(path: Path) -> str:
    """Where a file or folder of the repository is found on the site, as the path of a page's source."""
    if (page := generated_page(path)) is not None:
        return page
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    if name == "README.md":
        return "readme.md"  # the folder has an index already
    return name if path.suffix in AS_THEY_ARE else f"files/{name}.md"


def generated_page(path: Path) -> str | None:
    """The generated page that shows what is in a file or folder of the repository, in a form that is easier to read."""
    if path.is_dir() and path.parent == ROOT / "conf":
        return f"reference/axes/{path.name}.md"
    return _GENERATED.get(path)


def links_of(markdown: str, page: Path) -> Iterator[tuple[str, Path]]:
    """Yield each link of a page that leads to a file or folder of the repository, as it is written, and that place."""
    for link in _LINK.findall(markdown):
        target = _target(link, page)
        if target is not None:
            yield link, target


def linked_from(pages: Iterable[Path]) -> list[Path]:
    """All that lies outside of docs/ and that pages link to, and what these link to in turn."""
    found: dict[Path, None] = {}
    queue = list(pages)
    while queue:
        page = queue.pop(0)
        for _, target in links_of(page.read_text(encoding="utf-8"), page):
            if target not in found and not target.is_relative_to(DOCS) and generated_page(target) is None:
                found[target] = None
                queue += [target] if target.suffix == ".md" else []
    return list(found)


def with_links_of_site(markdown: str, page: Path, source: str) -> str:
    """The page with its links to places in the repository as links of the site.

    Args:
        page: the file that the Markdown is from, or where it would lie.
        source: the path of the page's source, as `site_path` gives it.
    """

    def replaced(match: re.Match[str]) -> str:
        target = _target(match[0], page)
        if target is None:
            return match[0]
        anchor = match[0].partition("#")[2]
        relative = os.path.relpath(site_path(target), os.path.dirname(source) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    return _LINK.sub(replaced, markdown)


def as_page(path: Path) -> str:
    """A page that shows a file, a notebook or what is in a folder."""
    if path.is_dir():
        body = "\n".join(f"* `{each.name}`" for each in sorted(path.iterdir()) if not each.name.startswith((".", "_")))
    elif path.suffix == ".ipynb":
        return with_links_of_site(notebook(path.read_text(encoding="utf-8")), path, site_path(path))
    elif path.stat().st_size > _LONGEST:
        body = f"{path.stat().st_size / 1e6:.1f} MB, in the repository."
    else:
        text = path.read_text(encoding="utf-8").rstrip()
        body = f"````{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n````"
    return f"# {path.relative_to(ROOT).as_posix()}\n\n{body}\n"


def notebook(text: str) -> str:
    """A notebook with its outputs as Markdown."""
    parts = [part for cell in json.loads(text)["cells"] for part in _cell(cell)]
    return "\n\n".join(parts) + "\n"


def _cell(cell: dict[str, object]) -> Iterator[str]:
    source = _joined(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        yield from _output(output)


def _output(output: dict[str, object]) -> Iterator[str]:
    data = output.get("data", {})
    shown: dict[str, Callable[[str], str]] = {
        "image/png": lambda text: (
            f"![a figure that this cell draws](data:image/png;base64,{text.replace(chr(10), '')})"
        ),
        "text/html": lambda text: f'<div class="scrolls" tabindex="0">{_without_style(text)}</div>',
        "text/plain": lambda text: f"```text\n{text}\n```",
    }
    if "text" in output:
        yield shown["text/plain"](_joined(output["text"]).rstrip())
    for kind, show in shown.items():
        if isinstance(data, dict) and kind in data:
            yield show(_joined(data[kind]))
            return


def _without_style(html: str) -> str:
    """A table of pandas as one line of HTML, which Markdown leaves as it is."""
    return " ".join(re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL).split())


def _joined(text: object) -> str:
    return "".join(text) if isinstance(text, list) else str(text)


def _target(link: str, page: Path) -> Path | None:
    """The place in the repository that a link leads to; None for an address, an anchor or something generated."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", link):
        return None
    target = Path(os.path.normpath(page.parent / path))
    return target if target.exists() and target.is_relative_to(ROOT) else None
