"""What will it take: bytes on disk and in memory, tokens, seconds and money? Estimates from configuration and samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_model_migration.domain.collection import Collection, FieldKind, Json, VectorField
from qdrant_model_migration.domain.strategies import STRATEGY

DATATYPE_BYTES = {"float32": 4, "float16": 2, "uint8": 1}
SPARSE_ENTRIES = 120
"""Entries of a sparse vector when none was seen: about the distinct words of a chunk of 200 words."""
MULTIVECTOR_ROWS = 128
"""Rows of a multivector when none was seen: about the tokens of a short chunk."""
ID_BYTES = 64
"""Identifiers and versions that Qdrant keeps in memory for each point."""
REWRITE = 1.2
"""The optimizer writes a segment anew before it drops the old one; segments are a part of the collection each."""
WRITE_RATE = 2_000.0
"""Points/s that Qdrant takes with new vectors, on the careful side of what was measured on 2 cores (8-16 thousand)."""
EMBEDDED_WRITE_RATE = 800.0
"""The embedded database commits each point on its own."""

_WORD = re.compile(r"\w+")
ADDED = "\0added"
"""Name of a field that is only reckoned with; no collection has it."""

SMALL_BYTES = 25_000_000
LARGE_BYTES = 400_000_000_000
HUGE_POINTS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes of a collection, all replicas included."""

    vectors_bytes: int = 0
    payload_bytes: int = 0
    disk_bytes: int = 0
    ram_bytes: int = 0

    @property
    def data_bytes(self) -> int:
        """What the thresholds 'below 25 MB' and 'at 400 GB' are about: raw vectors and payload."""
        return self.vectors_bytes + self.payload_bytes


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a strategy needs besides what is there: while it runs, and when what it replaces is gone (less than now: negative)."""

    disk_bytes: int
    ram_bytes: int
    disk_after_bytes: int
    ram_after_bytes: int


def vector_bytes(field: VectorField, points: int, rows: float | None = None) -> int:
    """Raw bytes of one field's vectors; `rows` is the mean number of rows of a multivector or of entries of a sparse vector."""
    width = DATATYPE_BYTES.get(field.datatype, 4)
    if field.kind is FieldKind.SPARSE:
        # Stored once by point and once in the inverted index; an entry is a value and a 32-bit index.
        return int(points * (SPARSE_ENTRIES if rows is None else rows) * (4 + width) * 2)
    each = (field.size or 0) * width
    if field.kind is FieldKind.MULTIVECTOR:
        return int(points * (MULTIVECTOR_ROWS if rows is None else rows) * each)
    return points * each


def quantized_bytes(field: VectorField, points: int, quantization: Json, rows: float | None = None) -> int:
    """Bytes of the quantized copies of one field's vectors; 0 without quantization."""
    if field.kind is FieldKind.SPARSE or not quantization:
        return 0
    numbers = points * (field.size or 0)
    if field.kind is FieldKind.MULTIVECTOR:
        numbers = int(numbers * (MULTIVECTOR_ROWS if rows is None else rows))
    if "scalar" in quantization:
        return numbers
    if "binary" in quantization:
        bits = {"two_bits": 2.0, "one_and_half_bits": 1.5}.get((quantization["binary"] or {}).get("encoding") or "", 1.0)
        return int(numbers * bits / 8)
    if "product" in quantization:
        ratio = str((quantization["product"] or {}).get("compression", "x4")).lstrip("x")
        return numbers * 4 // (int(ratio) if ratio.isdigit() and int(ratio) else 4)
    return numbers


def graph_bytes(field: VectorField, points: int, config: Json) -> int:
    """Bytes of the HNSW links: 2m links of 4 bytes a point on the lowest level, and about a tenth more above it."""
    if field.kind is FieldKind.SPARSE:
        return 0
    own = (field.config.get("hnsw_config") or {}).get("m")
    m = (config.get("hnsw_config") or {}).get("m", 16) if own is None else own
    return int(points * int(m) * 2 * 4 * 1.1)


def size_of(
    points: int,
    fields: Sequence[VectorField],
    config: Json,
    payload_each: float,
    rows: dict[str, float] | None = None,
    *,
    is_embedded: bool = False,
) -> Size:
    """Size of a collection of these fields; `rows` holds measured mean rows or entries by field name."""
    params = config.get("params") or {}
    replicas = int(params.get("replication_factor") or 1)
    payload = int(points * payload_each)
    vectors = disk = ram = 0
    for field in fields:
        mean = (rows or {}).get(field.name)
        raw = vector_bytes(field, points, mean)
        vectors += raw
        if is_embedded:
            # The embedded database keeps every vector in memory and builds no index.
            disk, ram = disk + raw, ram + raw
            continue
        own = field.config.get("quantization_config") or config.get("quantization_config") or {}
        quantized = quantized_bytes(field, points, own, mean)
        graph = graph_bytes(field, points, config)
        disk += raw + quantized + graph
        is_graph_on_disk = (field.config.get("hnsw_config") or {}).get("on_disk", (config.get("hnsw_config") or {}).get("on_disk"))
        is_on_disk = field.config.get("on_disk") or (field.config.get("index") or {}).get("on_disk")
        ram += (0 if is_on_disk else raw) + (0 if is_graph_on_disk else graph)
        always = next((v.get("always_ram") for v in own.values() if isinstance(v, dict)), None)
        ram += quantized if always or not is_on_disk else 0
    in_memory = 0 if params.get("on_disk_payload") and not is_embedded else payload
    return Size(
        vectors_bytes=vectors * replicas,
        payload_bytes=payload * replicas,
        disk_bytes=(disk + payload + points * ID_BYTES) * replicas,
        ram_bytes=(ram + in_memory + points * ID_BYTES) * replicas,
    )


def room_for(
    strategy: str,
    collection: Collection,
    field: VectorField | None,
    dimensions: int | None,
    payload_each: float,
    *,
    is_in_place: bool = False,
    is_elsewhere: bool = False,
    added_rows: float | None = None,
    quantization: str | None = None,
    is_embedded: bool = False,
) -> Room:
    """What a strategy needs.

    Args:
        strategy: Its name.
        collection: The source.
        field: The dense field in question.
        dimensions: Of the made field.
        payload_each: Mean bytes of a payload.
        is_in_place: How add_sparse and add_multivector are placed here.
        is_elsewhere: The target lies on another server, whose disk and memory these are; deleting the source frees none there.
        added_rows: Mean rows of an added multivector, or entries of an added sparse vector.
        quantization: What requantize sets; scalar when left out.
        is_embedded: Whether the target lies in the embedded database.
    """

    def size(fields: Sequence[VectorField], config: Json | None = None) -> Size:
        rows = {ADDED: added_rows} if added_rows is not None else None
        return size_of(collection.points, fields, config or collection.config, payload_each, rows, is_embedded=is_embedded)

    now = size(collection.fields)
    if strategy == "requantize":
        after = size(*_quantized(collection, field, quantization or "scalar"))
        disk, ram = after.disk_bytes - now.disk_bytes, after.ram_bytes - now.ram_bytes
        # The old quantized copies go only when the new ones are complete.
        return Room(disk_bytes=max(0, disk), ram_bytes=max(0, ram), disk_after_bytes=disk, ram_after_bytes=ram)
    if STRATEGY[strategy].adds_field:
        fields = (*collection.fields, _added(strategy, field, dimensions))
    else:
        fields = tuple(
            f.model_copy(update={"size": dimensions or f.size}) if field and f.name == field.name else f for f in collection.fields
        )
    then = size(fields)
    more_disk, more_ram = then.disk_bytes - now.disk_bytes, then.ram_bytes - now.ram_bytes
    if is_in_place or STRATEGY[strategy].placement == "in_place":
        return Room(disk_bytes=int(more_disk * REWRITE), ram_bytes=more_ram, disk_after_bytes=more_disk, ram_after_bytes=more_ram)
    return Room(
        disk_bytes=int(then.disk_bytes * REWRITE),
        ram_bytes=then.ram_bytes,
        disk_after_bytes=then.disk_bytes if is_elsewhere else more_disk,
        ram_after_bytes=then.ram_bytes if is_elsewhere else more_ram,
    )


def _quantized(collection: Collection, field: VectorField | None, quantization: str) -> tuple[tuple[VectorField, ...], Json]:
    """Fields and configuration as requantize leaves them: one field's own setting, or the collection's when no field is named."""
    setting: Json = {} if quantization == "off" else {quantization: {"always_ram": True}}
    if field is None:
        return collection.fields, {**collection.config, "quantization_config": setting}
    # A field's empty setting would fall back on the collection's.
    config = collection.config if setting else {**collection.config, "quantization_config": {}}
    changed = (
        f.model_copy(update={"config": {**f.config, "quantization_config": setting}}) if f.name == field.name else f
        for f in collection.fields
    )
    return tuple(changed), config


def _added(strategy: str, field: VectorField | None, dimensions: int | None) -> VectorField:
    if strategy == "add_sparse":
        return VectorField(name=ADDED, kind=FieldKind.SPARSE)
    if strategy == "add_multivector":
        # On disk, with HNSW off: it only reranks.
        config = {"on_disk": True, "hnsw_config": {"m": 0}}
        return VectorField(name=ADDED, kind=FieldKind.MULTIVECTOR, size=dimensions or 128, config=config)
    inherited = field.config if field else {}
    return VectorField(name=ADDED, kind=FieldKind.DENSE, size=dimensions or (field.size if field else None), config=inherited)


def multivector_bytes(points: int, dimensions: int, rows: float | None) -> int:
    """Raw bytes of token vectors, `rows` of them a point."""
    return vector_bytes(VectorField(name=ADDED, kind=FieldKind.MULTIVECTOR, size=dimensions), points, rows)


def backfill_seconds(
    points: float,
    texts_per_second: float | None,
    *,
    tokens: int | None = None,
    tokens_per_minute: int | None = None,
    texts_per_request: int = 64,
    requests_per_minute: int | None = None,
    is_embedded: bool = False,
) -> float | None:
    """Seconds of the backfill: the slowest of embedding, the provider's limits and Qdrant's writing. None when no rate is known."""
    if texts_per_second is None or texts_per_second <= 0:
        return None
    slowest = max(points / texts_per_second, points / (EMBEDDED_WRITE_RATE if is_embedded else WRITE_RATE))
    if tokens and tokens_per_minute:
        slowest = max(slowest, tokens / tokens_per_minute * 60)
    if requests_per_minute:
        slowest = max(slowest, points / texts_per_request / requests_per_minute * 60)
    return round(slowest, 1)


def total_tokens(counts: Sequence[int], texts: float) -> int | None:
    """Tokens of all texts, from the counts of a sample; None without a sample."""
    return round(sum(counts) / len(counts) * texts) if counts else None


def cost_usd(tokens: int | None, price_per_million: float | None) -> float | None:
    """Price of embedding these tokens once; None when either is unknown."""
    return None if tokens is None or price_per_million is None else round(tokens * price_per_million / 1e6, 4)


def mean_words(texts: Sequence[str]) -> float | None:
    """Mean count of distinct words of three letters and more: about the entries of a BM25 vector. None without texts."""
    return sum(len({w for w in _WORD.findall(t.lower()) if len(w) > 2}) for t in texts) / len(texts) if texts else None


def foreign_letters(texts: Sequence[str]) -> float:
    """Share of letters outside ASCII: 0 in plain English, some hundredths in German or French, near 1 in Russian or Chinese."""
    letters = [c for t in texts for c in t if c.isalpha()]
    return sum(not c.isascii() for c in letters) / len(letters) if letters else 0.0


def human_bytes(count: float) -> str:
    """For people: three digits and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the loop ends with TB")


def human_seconds(seconds: float) -> str:
    """For people: the unit that fits."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
