"""``python docs/check_links.py FOLDER``: are all links within a built site alive?

Every ``href`` and ``src`` that is no address elsewhere must name a file, and what stands behind ``#`` an
element of that page.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """Collects the links of a page, and what links may point at in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links and what it is called."""
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")


def dead_links(site: Path) -> list[str]:
    """Find the links that lead nowhere.

    Args:
        site: Folder of the built pages.

    Returns:
        A line for each: the page, the link, and what is missing.
    """
    pages = {path.resolve(): _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                problem = "no such file"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problem = f"no {parts.fragment} there"
            else:
                continue
            found.append(f"{path.relative_to(site.resolve())}: {link}: {problem}")
    return found


def main(arguments: list[str]) -> int:
    """Print the dead links of a site; returns the exit status."""
    if len(arguments) != 1 or not Path(arguments[0], "index.html").is_file():
        print("expected one argument: the folder of a built site, with index.html in it", file=sys.stderr)
        return 2
    found = dead_links(Path(arguments[0]))
    for line in found:
        print(line)
    print(f"{len(found)} dead links in {arguments[0]}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
