"""Are TREC topics, tab-separated queries and BEIR folders read as their makers mean them?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdrant_model_migration.domain.queries import MAX_QUERIES, past_queries
from qdrant_model_migration.domain.query_files import queries_of
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.queries import read_queries
from tests.unit.test_queries import settings

OLD_TOPICS = """
<top>
<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in international criminal activity.

<narr> Narrative:
A relevant document must name it.
</top>

<top>
<num> Number: 302 </num>
<title> Topic: Poliomyelitis &amp; Post-Polio
</title>
<desc> Is it under control?
</top>
"""
XML_TOPICS = """<?xml version="1.0"?>
<topics task="covid">
  <topic number="1">
    <query>coronavirus <![CDATA[origin & spread]]></query>
    <question>what is the origin of it</question>
  </topic>
  <topic number="2">a patient of 58 years,
     with a cough</topic>
</topics>
"""


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        (OLD_TOPICS, {"301": "International Organized Crime", "302": "Poliomyelitis & Post-Polio"}),
        (XML_TOPICS, {"1": "coronavirus origin & spread", "2": "a patient of 58 years, with a cough"}),
    ],
)
def test_titles_of_trec_topics_are_the_queries(text: str, queries: dict[str, str]) -> None:
    found, notes = queries_of(text.split("\n"), "topics.txt")
    assert {q.id: q.text for q in found} == queries
    assert "not their descriptions" in notes[0]


def test_ids_and_texts_by_tab_are_queries() -> None:
    found, _ = queries_of(["", "300674\thow many years did william bradford serve\r", "7\tsecond\twith a tab"], "dev.tsv")
    assert [(q.id, q.text) for q in found] == [("300674", "how many years did william bradford serve"), ("7", "second\twith a tab")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<top>\n<title> no number\n</top>", "topic 1 has no <num>"),
        ("<top>\n<num> 1\n<desc> only this\n</top>", r"topic 1 \(1\) has no text"),
        ("<html><body>nothing</body></html>", "holds no <top>"),
        ("<top><num>1<title>a</top><top><num>1<title>b</top>", "query id '1' more than once"),
        ("1\ta\n\tb", "line 2 has no id"),
        ("1\ta\n2\t ", "line 2 has no text"),
        ("plain text", "line 1 is not JSON"),
        ("", "holds no query"),
    ],
)
def test_files_that_are_none_of_these_are_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        queries_of(text.split("\n"), "file")


def test_more_topics_than_a_comparison_takes_are_refused() -> None:
    with pytest.raises(Refused, match="more than 10,000 queries"):
        queries_of([f"<top><num>{i}<title>words" for i in range(MAX_QUERIES + 2)], "topics")


async def test_a_beir_folder_is_taken_whole(tmp_path: Path) -> None:
    folder = tmp_path / "scifact"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": "1", "text": "a claim", "metadata": {"2": []}}, {"_id": "2", "text": "another"}]
    (folder / "queries.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for part, grade in (("dev", 3), ("test", 1)):
        (folder / "qrels" / f"{part}.tsv").write_text(f"query-id\tcorpus-id\tscore\n1\t4983\t{grade}\n")
    found, notes, source = await read_queries(settings(tmp_path), None, "scifact", None)
    assert found is not None
    assert [(q.id, q.text, q.relevant) for q in found] == [("1", "a claim", {"4983": 1}), ("2", "another", {})]
    assert source == "2 queries of 'queries.jsonl' judged by 'test.tsv'"
    assert "judged by 'test.tsv'" in notes[0]
    found, _, _ = await read_queries(settings(tmp_path), None, str(folder), "scifact/qrels/dev.tsv")
    assert found is not None
    assert found[0].relevant == {"4983": 3}
    outside = tmp_path / "allowed"
    outside.mkdir()
    for name in ("../scifact", str(folder)):
        with pytest.raises(Refused, match="was not read"):
            await read_queries(settings(outside), None, name, None)


def test_past_queries_are_drawn_once_each_and_never_judged() -> None:
    values: list[object] = ["Wing flutter", "wing  flutter", ["heat", "", 7], 3, "x" * 9_000, None]
    found = past_queries(values, 10, 0, "payload field 'asked' of 'log'")
    assert sorted(q.text for q in found.queries) == ["Wing flutter", "heat"]
    assert (found.basis, found.source) == ("unjudged", "2 past queries of payload field 'asked' of 'log'")
    assert "2 of 2 different past queries (3 in the points that were read)" in found.notes[0]
    assert "5 values" in found.notes[1]
    many = [f"question {i}" for i in range(500)]
    drawn = past_queries(many, 100, 1, "f").queries
    assert drawn == past_queries(reversed(many), 100, 1, "f").queries
    assert len({q.text for q in drawn}) == 100
    assert drawn != past_queries(many, 100, 2, "f").queries
    with pytest.raises(Refused, match="holds no text that could be a query"):
        past_queries([1, " "], 10, 0, "f")
