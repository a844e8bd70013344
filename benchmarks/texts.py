"""With what texts is measured? Made ones of one length, and real paragraphs of mixed length."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

from tests.qdrant.seeds import WORDS

ASSETS = Path(os.environ.get("QDRANT_MIGRATION_TEST_ASSETS") or Path(__file__).resolve().parents[2] / "shared" / "assets")


def short_texts(count: int, *, characters: int = 500, seed: int = 1) -> list[str]:
    """Texts of about so many characters, each another one."""
    rng = random.Random(seed)
    mean = sum(map(len, WORDS)) / len(WORDS) + 1
    return [" ".join(rng.choices(WORDS, k=round(characters / mean))) + f" {n}" for n in range(count)]


def mixed_texts(count: int, *, seed: int = 1) -> list[str]:
    """Paragraphs of the corpus `peps`, drawn at random: half of them between 128 and 320 characters, one in twenty longer than 565."""
    with gzip.open(ASSETS / "datasets" / "peps" / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    return random.Random(seed).sample(texts, count)
