"""May the writers be made to wait while the readers move, and what does that change in a collection's strict mode?

Strict mode's write rate of one a minute, its one token spent, answers every write with 429 while queries go on: what is written then is
written again by the app, to where the alias points by that time, instead of being told from newer writes afterwards.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import UNLIMITED_WRITES, Collection, Json
from qdrant_model_migration.domain.recipe import Endpoint

MOST_FENCE_S = 45.0
"""How long the passes may take while writers wait. After a minute the limiter would let the next write through."""
MOST_FENCED_PASS_S = MOST_FENCE_S / 2
"""How long a pass before may have taken: one that finds something is followed by another while writers still wait."""
_OWN = frozenset({"enabled", "write_rate_limit"})


class Fence(BaseModel):
    """A fence that is up, or was when its driver died: recorded before it is raised, and how to take it down."""

    model_config = ConfigDict(frozen=True)

    place: Endpoint
    before: Json = {}
    """The strict mode of the collection as it was."""
    at: str


def strict_mode_of(collection: Collection) -> Json:
    found = collection.config.get("strict_mode_config")
    return dict(found) if isinstance(found, dict) else {}


def why_unfenced(collection: Collection, *, is_embedded: bool) -> str | None:
    """Why writers of a collection cannot be made to wait, for a sentence; None where they can."""
    if is_embedded:
        return "the embedded database has no rate limits"
    if collection.peers > 1:
        return "it lies in a cluster, where each peer counts its own writes"
    if collection.config.get("params", {}).get("sharding_method") == "custom":
        return "it has shard keys, each of which counts its own writes"
    before = strict_mode_of(collection)
    latent = sorted(key for key, value in before.items() if key not in _OWN and value is not None)
    if latent and not before.get("enabled"):
        return f"its strict mode is off, and turning it on would also enforce {', '.join(latent)}"
    return None


def raised() -> Json:
    """Strict mode that lets one write through a minute."""
    return {"enabled": True, "write_rate_limit": 1}


def is_raised(strict: Json) -> bool:
    """Whether somebody's fence is up."""
    return bool(strict.get("enabled")) and strict.get("write_rate_limit") == raised()["write_rate_limit"]


def lifted(before: Json) -> Json:
    """Strict mode as it was before the fence."""
    return {"enabled": bool(before.get("enabled")), "write_rate_limit": before.get("write_rate_limit") or UNLIMITED_WRITES}


def is_lifted(now: Json, before: Json) -> bool:
    return all(now.get(key) == value for key, value in lifted(before).items())


def outlasted_fence(pass_s: float | None) -> str | None:
    """What is to be expected of a fence where comparing both sides takes so long; None where it fits, or nothing was measured."""
    if pass_s is None or pass_s <= MOST_FENCED_PASS_S:
        return None
    return (
        f"Comparing every point took {pass_s:.0f} s at the verification, and writers are made to wait only where that takes {MOST_FENCED_PASS_S:.0f} s at most: expect "
        "this swap to be refused, with nothing changed. With fence=false nobody waits, and late writes are carried over by their numbers."
    )


def fence_told(collection: str, alias: str) -> str:
    """What a fence means for the app's writers."""
    return (
        f"While the last differences are carried over, writes to {collection!r} are answered with 429 (rate limit), usually for some seconds and at most a minute "
        "(should the worker die meanwhile, until another has taken over; should its whole machine die, until somebody calls migration_status); queries go on. A writer that tries again loses nothing: its next try reaches what "
        f"{alias} points to then. A single write is told to come back after 60 s, sooner is fine; a request of several points is told that it is too large, and may "
        "have been taken in part: repeat it whole. Where no write rate was set, one of a billion a minute stays set: Qdrant cannot unset it. fence=false makes nobody wait, and the order of two writes to one point around the swap is then not always known."
    )
