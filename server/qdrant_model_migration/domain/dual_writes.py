"""How does an app write to both collections? The code that it pastes: the source first, then the target from what the source now holds."""

from __future__ import annotations

from qdrant_model_migration.domain.framework_writes import framework_writes
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.domain.texts import TextSource

_SNIPPET = '''\
# Dual writes for migration {migration}: the source first, as before; then the target, from what the source now holds.
# A failure on the target never fails the app's request: the catch-up carries it over.
# Every writer uses this until the swap, and none after it: what it mirrors replaces whole points of the target.
import json
import logging
import uuid

from qdrant_client import QdrantClient, models

SOURCE, TARGET = {source!r}, {target!r}
NEW_FIELD = {field!r}  # "" is the unnamed vector
COPIED_FIELDS = {copied!r}  # source field -> target field
SKIPS_TEXTLESS = {skips!r}  # on_missing_text: whether points without a text are left out


class DualWriter:
    """Each write as the client's method of that name has it, on the source; `points` are ids or a filter. Any other: `mirror` the ids after it."""

    def __init__(self, {clients}, embed_documents{text_parameter}):
        """`embed_documents`: list of texts -> list of vectors of {model} ({shape}), document side{prefix}.{client_document}{text_document}"""
        self.source, self.target = {client_pair}
        self.embed_documents = embed_documents{text_kept}

    def upsert(self, points: list[models.PointStruct]):
        return self._write([p.id for p in points], lambda ids: self.source.upsert(SOURCE, points, wait=True))

    def set_payload(self, payload: dict, points, key: str | None = None):
        return self._write(points, lambda ids: self.source.set_payload(SOURCE, payload, ids, key=key, wait=True))

    def overwrite_payload(self, payload: dict, points):
        return self._write(points, lambda ids: self.source.overwrite_payload(SOURCE, payload, ids, wait=True))

    def delete_payload(self, keys: list[str], points):
        return self._write(points, lambda ids: self.source.delete_payload(SOURCE, keys, ids, wait=True))

    def clear_payload(self, points):
        return self._write(points, lambda ids: self.source.clear_payload(SOURCE, ids, wait=True))

    def update_vectors(self, points: list[models.PointVectors]):
        return self._write([p.id for p in points], lambda ids: self.source.update_vectors(SOURCE, points, wait=True))

    def delete_vectors(self, vectors: list[str], points):
        return self._write(points, lambda ids: self.source.delete_vectors(SOURCE, vectors, ids, wait=True))

    def delete(self, points):
        return self._write(points, lambda ids: self.source.delete(SOURCE, ids, wait=True))

    def _write(self, points, write):
        ids = self.selected(points)
        try:
            return write(ids)
        finally:
            self.mirror(ids)  # after a failure too: the source may have taken a part of it

    def selected(self, points) -> list:
        """The ids that a write of these points concerns."""
        points = getattr(points, "points", getattr(points, "filter", points))  # a selector holds either
        if not isinstance(points, models.Filter):
            return list(points)
        found, offset = [], None
        while True:
            page, offset = self.source.scroll(SOURCE, points, limit=1000, offset=offset, with_payload=False)
            found += [record.id for record in page]
            if offset is None:
                return found

    def concerned(self, points) -> list:
        """The ids of points, of a batch, of ids or of what a filter finds; none where they cannot be told."""
        try:
            if isinstance(points, models.Batch):
                return list(points.ids)
            return [getattr(p, "id", p) for p in self.selected(points)]
        except Exception:
            logging.getLogger("dual_write").warning("target not updated; the catch-up will", exc_info=True)
            return []

    def mirror(self, ids: list) -> None:
        """Make the target's points what the source's are now: a partial update becomes a full upsert, for the text may have changed."""
        for start in range(0, len(ids), 64):  # a request of Qdrant, and of a provider, is bounded
            try:
                self._mirror(ids[start : start + 64])
            except Exception:
                logging.getLogger("dual_write").warning("target not updated; the catch-up will", exc_info=True)

    def _mirror(self, ids: list) -> None:
        records = self.source.retrieve(SOURCE, ids, with_payload=True, with_vectors=bool(COPIED_FIELDS))
        texts = {{record.id: {text_call} for record in records}}
        texts = {{i: text for i, text in texts.items() if text is not None and text.strip()}}
        made = self._vectors(texts)
        held_ids = {{canonical(record.id) for record in records}}
        points, gone = [], {{i for i in ids if canonical(i) not in held_ids}}
        for record in records:
            if has_wide_number(record.payload):
                continue  # gRPC made a float of an integer beyond 2**63: left to the catch-up, which reads it by REST
            if record.id not in texts and SKIPS_TEXTLESS:
                gone.add(record.id)
                continue
            held = vectors_of(record)
            vectors = {{new: held[old] for old, new in COPIED_FIELDS.items() if old in held}}
            if record.id in made:
                vectors[NEW_FIELD] = made[record.id]
            vector = vectors[""] if set(vectors) == {{""}} else vectors
            points.append(models.PointStruct(id=record.id, vector=vector, payload=record.payload or {{}}))
        if points:
            self.target.upsert(TARGET, points, wait=True)
        if gone:
            self.target.delete(TARGET, list(gone), wait=True)

{make_vectors}

def canonical(point_id):
    """An id as Qdrant writes it: a UUID may be given without hyphens, or as an object."""
    return point_id if isinstance(point_id, int) else str(uuid.UUID(str(point_id)))


def vectors_of(record) -> dict:
    return record.vector if isinstance(record.vector, dict) else {{}} if record.vector is None else {{"": record.vector}}


def has_wide_number(value) -> bool:
    if isinstance(value, (dict, list)):
        return any(map(has_wide_number, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and abs(value) >= 2**63
{text_of}'''

_KEEPS_VECTORS = '''\
    def _vectors(self, texts: dict) -> dict:
        """A vector for each id; the target's own where it has one of the same text, so that a counter in the payload embeds nothing."""
        made = {}
        for record in self.target.retrieve(TARGET, list(texts), with_payload=True, with_vectors=[NEW_FIELD] if NEW_FIELD else True):
            if NEW_FIELD in vectors_of(record) and text_of(record.payload or {}) == texts[record.id]:
                made[record.id] = vectors_of(record)[NEW_FIELD]
        new = [i for i in texts if i not in made]
        vectors = self.embed_documents([texts[i] for i in new]) if new else []
        return made | {i: v.tolist() if hasattr(v, "tolist") else v for i, v in zip(new, vectors, strict=True)}
'''

_MAKES_VECTORS = """\
    def _vectors(self, texts: dict) -> dict:
        vectors = self.embed_documents(list(texts.values())) if texts else []
        return {i: v.tolist() if hasattr(v, "tolist") else v for i, v in zip(texts, vectors, strict=True)}
"""

_ONE_CLIENT = {"clients": "client: QdrantClient", "client_document": "", "client_pair": "client, client"}
_TWO_CLIENTS = {
    "clients": "source: QdrantClient, target: QdrantClient",
    "client_document": """

        `source`: a client of the server of connection {source!r}; `target`: one of the server of connection {target!r}, with a short
        timeout: the app's request waits for it.
        """,
    "client_pair": "source, target",
}

_FROM_PAYLOAD = {
    "text_parameter": "",
    "text_document": "",
    "text_kept": "",
    "text_call": "text_of(record.payload or {})",
    "make_vectors": _KEEPS_VECTORS,
}
_FROM_APP = {
    "text_parameter": ", text_of",
    "text_document": """

        `text_of`: a record of the source (with id and payload) -> its text as it is now, or None. The migration takes the texts from a
        file, which knows nothing of what was written since it was made: fetch the text from where the app keeps it.
        """,
    "text_kept": "\n        self.text_of = text_of",
    "text_call": "self.text_of(record)",
    "make_vectors": _MAKES_VECTORS,
}

_SHAPES = {
    ModelKind.DENSE: "{dimensions} dimensions",
    ModelKind.SPARSE: "models.SparseVector, or models.Document where the server embeds",
    ModelKind.MULTIVECTOR: "rows of {dimensions} dimensions",
}

_READ_PATH = """\
def read_path(payload: dict, path: str):
    if path in payload:
        return payload[path]
    value = payload
    for part in path.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):  # JSON held in a string
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value
"""

_TEXT_OF_PATH = """\
def text_of(payload: dict):
    value = read_path(payload, {path!r})
    return value if isinstance(value, str) and value.strip() else None


"""

_TEXT_OF_TEMPLATE = """\
def text_of(payload: dict):
    filled, has_text = "", False
    for literal, path in {parts!r}:
        value = read_path(payload, path) if path else None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        part = value if isinstance(value, str) else str(value) if is_number else ""
        has_text = has_text or bool(part.strip())
        filled += literal + part
    return filled.strip() if has_text else None


"""


def dual_write_snippet(migration: Migration, has_texts_file: bool = False) -> str:
    """Python for the plain client, and for the framework that wrote the source; tests run it against real servers.

    Where the texts come from a file, the app passes a function that knows the text of a record: the payload does not tell it. Where source
    and target lie on two servers, it passes a client of each.
    """
    text_of = "" if has_texts_file else f"\n\n{_text_of(migration.text_field)}{_READ_PATH}"
    clients = _TWO_CLIENTS if migration.is_across_servers else _ONE_CLIENT
    names = {"source": migration.source.connection, "target": migration.target.connection}
    spec = migration.spec
    return _SNIPPET.format(
        migration=migration.id,
        source=migration.source.collection,
        target=migration.target.collection,
        field=migration.making.field,
        copied={r.source_field: r.field for r in migration.copies},
        skips=migration.on_missing_text == "skip" and migration.making.stage == "insert",
        model=spec.name,
        shape=_SHAPES[spec.kind].format(dimensions=spec.dimensions),
        prefix=f", each prefixed {spec.document_prefix!r}" if spec.document_prefix else "",
        text_of=text_of,
        **{key: value.format(**names) for key, value in clients.items()},
        **(_FROM_APP if has_texts_file else _FROM_PAYLOAD),
    ) + framework_writes(migration)


def _text_of(text_field: str) -> str:
    text = TextSource.parse(text_field)
    return _TEXT_OF_TEMPLATE.format(parts=text.parts) if text.is_template else _TEXT_OF_PATH.format(path=text_field)
