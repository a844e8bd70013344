"""How does a browser take a page? As a tree of elements; checked to be whole, and to fetch and run nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br"}
HARMLESS = frozenset(
    [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "ol",
        "li",
        "dl",
        "div",
        "dt",
        "dd",
        "section",
        "strong",
        "footer",
        "figure",
        "figcaption",
        "br",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "svg",
        "desc",
        "g",
        "rect",
        "line",
        "circle",
        "path",
        "text",
    ]
)
PLAIN = frozenset(
    [
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "id",
        "role",
        "tabindex",
        "scope",
        "viewbox",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "cx",
        "cy",
        "r",
        "d",
        "width",
        "height",
        "text-anchor",
        "aria-label",
        "aria-labelledby",
        "data-value",
    ]
)


@dataclass
class Node:
    """An element with what stands in it, in order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def walk(self) -> Iterator[Node]:
        """This element and all within it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, tag: str, kind: str | None = None) -> list[Node]:
        """Those of a tag, and of a class where one is named."""
        return [n for n in self.walk() if n.tag == tag and (kind is None or kind in n.attributes.get("class", "").split())]

    def one(self, tag: str, kind: str | None = None) -> Node:
        (found,) = self.all(tag, kind)
        return found

    def number(self, name: str) -> float:
        return float(self.attributes[name])


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.top = Node("")
        self._open = [self.top]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} says something twice"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag, f"{tag} is closed and was not open"

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def whole(self) -> Node:
        assert self._open == [self.top], f"never closed: {self._open[-1].tag}"
        return self.top


def read_part(markup: str) -> Node:
    """The tree of a part of a page."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    return reader.whole()


def read_page(page: str) -> Node:
    """The tree of a page that is whole and keeps to itself.

    Only elements and attributes that are known to fetch and run nothing occur, and the policy forbids the rest.
    """
    tree = read_part(page)
    for node in tree.walk():
        assert node.tag in {"", *HARMLESS}, f"an element {node.tag}"
        assert set(node.attributes) <= PLAIN, f"{node.tag} has {set(node.attributes) - PLAIN}"
    assert [n.attributes["content"] for n in tree.all("meta") if n.attributes.get("http-equiv") == "Content-Security-Policy"] == [
        "default-src 'none'; style-src 'unsafe-inline'"
    ]
    (style,) = (n.text for n in tree.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    ids = [n.attributes["id"] for n in tree.walk() if "id" in n.attributes]
    assert len(ids) == len(set(ids))
    for chart in tree.all("svg"):
        named = chart.attributes["aria-labelledby"].split()
        assert [(n.tag, n.attributes["id"]) for n in chart.children[:2] if isinstance(n, Node)] == [("title", named[0]), ("desc", named[1])]
        assert chart.one("title").text
        assert chart.one("desc").text
    return tree


def rows_of(table: Node) -> list[list[str]]:
    """The cells of a table's body."""
    return [[cell.text for cell in row.all("td")] for row in table.one("tbody").all("tr")]
