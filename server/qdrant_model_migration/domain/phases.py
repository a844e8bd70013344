"""Which call is allowed when, and where does each event lead? The one table of phases, and what differs by the kind of migration."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class Phase(StrEnum):
    PLANNED = "planned"
    TARGET_CREATED = "target_created"
    BACKFILLING = "backfilling"
    BACKFILLED = "backfilled"
    VERIFIED = "verified"
    CUT_OVER = "cut_over"
    FINISHED = "finished"
    ROLLED_BACK = "rolled_back"
    ABANDONED = "abandoned"


CLOSED = frozenset({Phase.FINISHED, Phase.ABANDONED})

Event = Literal["created", "started", "converged", "verified", "found_incomplete", "swapped", "rolled_back", "finished", "discarded"]

_P = Phase
TRANSITIONS: dict[Event, dict[Phase, Phase]] = {
    "created": {_P.PLANNED: _P.TARGET_CREATED},
    "started": {
        _P.TARGET_CREATED: _P.BACKFILLING,
        _P.BACKFILLING: _P.BACKFILLING,
        _P.BACKFILLED: _P.BACKFILLED,
        _P.VERIFIED: _P.VERIFIED,
        _P.ROLLED_BACK: _P.BACKFILLING,
        _P.CUT_OVER: _P.CUT_OVER,
    },
    "converged": {_P.BACKFILLING: _P.BACKFILLED, _P.BACKFILLED: _P.BACKFILLED, _P.VERIFIED: _P.VERIFIED},
    "verified": {_P.BACKFILLED: _P.VERIFIED, _P.VERIFIED: _P.VERIFIED, _P.CUT_OVER: _P.CUT_OVER},
    "found_incomplete": {_P.BACKFILLED: _P.BACKFILLED, _P.VERIFIED: _P.BACKFILLED, _P.CUT_OVER: _P.CUT_OVER},
    "swapped": {_P.VERIFIED: _P.CUT_OVER},
    "rolled_back": {_P.CUT_OVER: _P.ROLLED_BACK},
    "finished": {_P.VERIFIED: _P.FINISHED, _P.CUT_OVER: _P.FINISHED, _P.FINISHED: _P.FINISHED},
    "discarded": dict.fromkeys((_P.PLANNED, _P.TARGET_CREATED, _P.BACKFILLING, _P.BACKFILLED, _P.VERIFIED, _P.ROLLED_BACK), _P.ABANDONED),
}
"""Where an event leads from each phase in which it may happen."""

_OPEN = frozenset(Phase) - CLOSED
ALLOWED: dict[str, frozenset[Phase]] = {
    "start_backfill": frozenset(TRANSITIONS["started"]) - {_P.CUT_OVER},
    "control_backfill": frozenset({_P.TARGET_CREATED, _P.BACKFILLING, _P.BACKFILLED, _P.VERIFIED}),
    "verify_target": frozenset({_P.BACKFILLED, _P.VERIFIED, _P.CUT_OVER}),
    "repair_target": frozenset({_P.BACKFILLED, _P.VERIFIED}),
    "compare_models": frozenset({_P.BACKFILLED, _P.VERIFIED, _P.CUT_OVER, _P.ROLLED_BACK}),
    "swap_alias:forward": frozenset({_P.VERIFIED}),
    "swap_alias:back": frozenset({_P.CUT_OVER}),
    "finish_migration:keep_old": frozenset({_P.CUT_OVER}),
    "finish_migration:delete_old": frozenset({_P.CUT_OVER, _P.FINISHED}),
    "finish_migration:discard_new": frozenset(TRANSITIONS["discarded"]),
}
"""Which call is allowed in which phase, where a new collection takes the place of the old one."""

ALLOWED_IN_PLACE: dict[str, frozenset[Phase]] = {
    "swap_alias:forward": frozenset(),
    "swap_alias:back": frozenset(),
    "finish_migration:keep_old": frozenset({_P.VERIFIED}),
    "finish_migration:delete_old": frozenset({_P.VERIFIED, _P.FINISHED}),
}
"""What differs in place: no alias moves, so that a migration ends where it is verified."""

ALLOWED_FILLING: dict[str, frozenset[Phase]] = {
    call: ALLOWED[call] | {_P.CUT_OVER} for call in ("start_backfill", "control_backfill", "repair_target")
}
"""What differs where a field is filled after the points were copied: that may be after the readers moved."""

INSTEAD: dict[Phase, str] = {
    _P.PLANNED: "Repeat create_target with the same arguments: its target was not finished",
    _P.TARGET_CREATED: "Call start_backfill",
    _P.BACKFILLING: "Wait until migration_status reports 'backfilled'",
    _P.BACKFILLED: "Call verify_target",
    _P.VERIFIED: "Call compare_models or swap_alias",
    _P.CUT_OVER: "Call finish_migration, or swap_alias with direction='back'",
    _P.FINISHED: "It is over; start a new migration with create_target",
    _P.ROLLED_BACK: "Call start_backfill to bring the target up to date, or finish_migration with action='discard_new'",
    _P.ABANDONED: "It is over; start a new migration with create_target",
}
