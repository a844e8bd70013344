"""Which part of the guidance answers a question? Sections of the Markdown, and a small deterministic lexical match."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from qdrant_model_migration.errors import NotFound

MAX_SECTION_CHARS = 6_000
MAX_MATCHES = 3
MAX_GIST_CHARS = 140

TITLE_WEIGHT = 3.0
FORM_WEIGHT = 0.8
#: A subsection or a section of a reference must match clearly better to stand before a main section.
DETAIL_WEIGHT = 0.6
#: Sections below this share of the best score are left out.
KEPT_SHARE = 0.6

_FENCE = re.compile(r"^\s{0,3}(`{3,}|~{3,})")
#: Marks of generated tables say nothing to a reader.
_COMMENT = re.compile(r"^<!--.*-->\s*$")
_HEADING = re.compile(r"^(#{2,3})\s+(.+?)\s*#*\s*$")
_TOP_HEADING = re.compile(r"^#\s+(.+?)\s*$", re.MULTILINE)
_WORD = re.compile(r"[a-z0-9]+")
_IDENTIFIER = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
#: Between the title of a reference and that of its section.
_WITHIN = " / "
#: A list of links answers no question.
_LINKS_TITLE = "References"
_CUT_NOTE = "\n[cut: the whole section stands in skill/SKILL.md or its references]"

_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be by can do does for from have how i if in into is it its me my need not of on or our please should so that"
        " the their them then there this to us want was we what when where why will with you your tell about collection qdrant"
    )
)
#: What people say for what the guidance calls otherwise.
_SAID_FOR = {
    "undo": "rollback",
    "revert": "rollback",
    "split": "chunking",
    "splitting": "chunking",
    "injection": "untrusted",
    "evaluate": "comparing",
    "evaluation": "comparing",
    "cleanup": "finishing",
    "price": "cost",
    "expensive": "cost",
    "mrl": "matryoshka",
    "outage": "downtime",
    "quantize": "quantization",
    "pick": "choose",
    "select": "choose",
    "colbert": "multivectors",
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """The text from one heading to the next of level 2 or 3; the heading itself is `title`."""

    title: str
    text: str
    #: 2 for a main section, 3 for a subsection or a section of a reference.
    level: int


def sections(text: str) -> list[Section]:
    """The sections of a Markdown text, in its order. Frontmatter and what stands before the first heading are left out."""
    found: list[Section] = []
    title, level, body = "", 0, list[str]()
    fence = ""
    for line in _without_frontmatter(text).splitlines():
        fence_match = _FENCE.match(line)
        if fence_match:
            mark = fence_match.group(1)
            if not fence:
                fence = mark
            elif mark.startswith(fence) and line.strip() == mark:
                fence = ""
        if not fence and _COMMENT.match(line):
            continue
        heading = None if fence or fence_match else _HEADING.match(line)
        if heading is None:
            body.append(line)
            continue
        if level:
            found.append(Section(title=title, text="\n".join(body).strip(), level=level))
        title, level, body = heading.group(2), len(heading.group(1)), []
    if level:
        found.append(Section(title=title, text="\n".join(body).strip(), level=level))
    return found


def matching(sections: Sequence[Section], topic: str | None) -> list[Section]:
    """The one to three sections that fit the topic best, best first; without a topic or a match, the contents: titles with a gist."""
    wanted = (topic or "").strip()
    exact = [s for s in sections if s.title.casefold() == wanted.casefold()]
    if wanted and exact:
        return [_bounded(exact[0])]
    scores = _scores(sections, _terms(wanted))
    ranked = sorted((-score, position) for position, score in enumerate(scores) if score > 0)
    if not ranked:
        return _contents(sections)
    least = -ranked[0][0] * KEPT_SHARE
    return [_bounded(sections[position]) for negative, position in ranked[:MAX_MATCHES] if -negative >= least]


def guidance_text(path: str = "SKILL.md") -> str:
    """The text of SKILL.md, or of a file beside it (`references/cutover.md`): from the installed package, else from the repository.

    Raises:
        NotFound: no such file belongs to the guidance.
    """
    names = ["SKILL.md", *reference_paths()]
    if path not in names:
        raise NotFound.named("guidance file", path, names)
    return _folder().joinpath(*path.split("/")).read_text(encoding="utf-8")


def reference_paths() -> list[str]:
    """The files that SKILL.md refers to, as it writes them."""
    folder = _folder().joinpath("references")
    return sorted(f"references/{entry.name}" for entry in folder.iterdir() if entry.name.endswith(".md"))


@cache
def guidance_sections() -> tuple[Section, ...]:
    """Everything `read_guidance` can answer with: SKILL.md, then the references' sections as details under their file's title."""
    found = sections(guidance_text())
    for path in reference_paths():
        text = guidance_text(path)
        top = _TOP_HEADING.search(_without_frontmatter(text))
        name = top.group(1) if top else path
        found += [replace(s, title=f"{name}{_WITHIN}{s.title}", level=3) for s in sections(text)]
    return tuple(found)


def _folder() -> Traversable:
    installed = files("qdrant_model_migration").joinpath("skill")
    if installed.joinpath("SKILL.md").is_file():
        return installed
    beside_server = Path(__file__).resolve().parents[3] / "skill"
    if beside_server.joinpath("SKILL.md").is_file():
        return beside_server
    raise NotFound("The guidance is not there: this installation lacks skill/SKILL.md. Install the package again.")


def _without_frontmatter(text: str) -> str:
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return text
    for number, line in enumerate(lines[1:], start=1):
        if line.strip() == "---":
            return "\n".join(lines[number + 1 :])
    return text


def _words(text: str) -> list[str]:
    """Words; of an identifier its parts and the whole, so that `new_collection` is more than `new`."""
    folded = text.casefold().replace("a/b", "ab")
    return _WORD.findall(folded) + _IDENTIFIER.findall(folded)


def _terms(topic: str) -> list[str]:
    """The topic's telling words, each once, in the guidance's vocabulary."""
    words = [_SAID_FOR.get(word, word) for word in _words(topic) if word not in _STOP_WORDS]
    return list(dict.fromkeys(words))


def _likeness(one: str, other: str) -> float:
    """1 for the same word, `FORM_WEIGHT` for forms of one (`truncate` and `truncation`, `alias` and `aliases`), else 0."""
    if one == other:
        return 1.0
    short, long = sorted((one, other), key=len)
    if len(short) < 5:
        is_form = len(short) > 2 and long == short + "s"
    else:
        stem = len(short) - 1
        is_form = len(long) - len(short) <= 6 and short[:stem] == long[:stem]
    return FORM_WEIGHT if is_form else 0.0


def _scores(sections: Sequence[Section], terms: Sequence[str]) -> list[float]:
    """Saturated counts of each term, rare terms and title words weighing more, times the share of the terms found."""
    if not terms:
        return [0.0] * len(sections)
    titles = [_words(s.title.rpartition(_WITHIN)[2]) for s in sections]
    bodies = [_words(s.text) for s in sections]
    scores = [0.0] * len(sections)
    found = [0] * len(sections)
    for term in terms:
        in_title = [max((_likeness(term, word) for word in words), default=0.0) for words in titles]
        in_body = [sum(_likeness(term, word) for word in words) for words in bodies]
        holding = sum(bool(t or b) for t, b in zip(in_title, in_body, strict=True))
        if not holding:
            continue
        rarity = math.log(1 + len(sections) / holding)
        for i, body in enumerate(bodies):
            if in_title[i] or in_body[i]:
                found[i] += 1
                saturated = in_body[i] / (in_body[i] + 1 + len(body) / 300)
                scores[i] += rarity * (TITLE_WEIGHT * in_title[i] + saturated)
    return [
        score * found[i] / len(terms) * (1.0 if sections[i].level == 2 else DETAIL_WEIGHT)
        if sections[i].text and sections[i].title != _LINKS_TITLE
        else 0.0
        for i, score in enumerate(scores)
    ]


def _contents(sections: Sequence[Section]) -> list[Section]:
    main = [s for s in sections if s.level == 2] or list(sections)
    return [replace(s, text=_gist(s.text)) for s in main]


def _gist(text: str) -> str:
    """The first sentence outside tables and code, without markup."""
    fence = False
    for raw in text.splitlines():
        if _FENCE.match(raw):
            fence = not fence
            continue
        line = re.sub(r"^(\s*([-*]|\d+\.)\s+)", "", raw)
        if fence or not line.strip() or line.startswith("|"):
            continue
        plain = _LINK.sub(r"\1", line).replace("**", "").replace("*", "").strip()
        sentence = re.split(r"(?<=[.!?])\s", plain, maxsplit=1)[0]
        return sentence if len(sentence) <= MAX_GIST_CHARS else sentence[: MAX_GIST_CHARS - 1].rsplit(" ", 1)[0] + "…"
    return ""


def _bounded(section: Section) -> Section:
    if len(section.text) <= MAX_SECTION_CHARS:
        return section
    kept = section.text[: MAX_SECTION_CHARS - len(_CUT_NOTE)]
    return replace(section, text=kept[: kept.rfind("\n")] + _CUT_NOTE if "\n" in kept else kept + _CUT_NOTE)
