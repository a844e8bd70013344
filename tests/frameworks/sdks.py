"""Embeds by a configured model, in an environment that has the providers' SDKs: `sdks.py NAME`. Each line of the input is [side, texts]; what it came to is printed."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anyio

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import MigrationError, TransientEmbedding


async def embedded(model: Any, side: str, texts: list[str]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        return {"vectors": (await model.embed(texts, Side(side))).tolist()}
    except MigrationError as error:
        after = error.retry_after_s if isinstance(error, TransientEmbedding) else None
        return {"error": type(error).__name__, "text": str(error), "retry_after_s": after, "seconds": time.monotonic() - began}


async def main() -> None:
    model = await Catalogue(read_settings()).load(sys.argv[1])
    print(json.dumps({"dimensions": model.spec.dimensions, "max_tokens": model.spec.max_tokens}), flush=True)
    for line in sys.stdin:
        print(json.dumps(await embedded(model, *json.loads(line))), flush=True)
    await model.close()


if __name__ == "__main__":
    anyio.run(main)
