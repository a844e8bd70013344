"""Is anything lost, whatever an app writes between any two requests of a driver, and whenever that dies?

A state machine of hypothesis leads a real server through random interleavings. `MACHINE_EXAMPLES` and `MACHINE_SEED` ask for more than
the few fixed ones: `MACHINE_EXAMPLES=300 MACHINE_SEED=7 pytest -n 0 tests/properties/test_migration_machine.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, seed, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import Operation, OperationKind
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.backfill import control_backfill, start_backfill
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.requests import operation_key
from qdrant_model_migration.operations.swap_plan import Direction, plan_swap
from qdrant_model_migration.settings import Settings
from tests.properties.stepping import Worker, arm
from tests.properties.world import IDS, KINDS, MODEL, NEW, Id, Kind, Raw, State, World
from tests.servers import QdrantServer, delete_collections

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "5"))
SEED = os.environ.get("MACHINE_SEED")
STEPS = int(os.environ.get("MACHINE_STEPS", "30"))
LONG = 2000
"""Requests after which a driver that is left alone has found an end."""
MOST_CALLS = 8
LOOK_EVERY = 4
"""Requests of a driver between two looks at the ledger."""

Write = tuple[Kind, Id, bool]
"""What, to which point, and whether the app writes to both sides, or, after the swap, is one that was not moved."""
writes = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(IDS), st.booleans()), min_size=1, max_size=4)
many = st.lists(writes, min_size=1, max_size=6)
then = st.sampled_from(("go on", "go on", "die"))

LEADS: dict[Phase, frozenset[Phase]] = {
    Phase.TARGET_CREATED: frozenset({Phase.BACKFILLING}),
    Phase.BACKFILLING: frozenset({Phase.BACKFILLED, Phase.ROLLED_BACK}),
    Phase.BACKFILLED: frozenset({Phase.VERIFIED, Phase.BACKFILLING}),
    Phase.VERIFIED: frozenset({Phase.BACKFILLED, Phase.BACKFILLING, Phase.CUT_OVER}),
    Phase.CUT_OVER: frozenset({Phase.ROLLED_BACK}),
    Phase.ROLLED_BACK: frozenset({Phase.BACKFILLING}),
}
"""Where a phase may lead within one request; a field that is filled goes back to the backfill, as a rolled-back target does."""
COPYING = frozenset({Phase.BACKFILLING, Phase.BACKFILLED, Phase.VERIFIED})


async def _nobody(_: Migration) -> None:
    """Starts no driver: the machine does."""


class LedgerWatch:
    """What was seen of the ledger, by raw REST; it never goes backwards."""

    def __init__(self) -> None:
        self.revisions: dict[str, int] = {}
        self.phase = Phase.TARGET_CREATED
        self.ranges: dict[str, Raw] = {}
        self.epoch = 0
        self.migration: Raw = {}

    def look(self, records: list[Raw]) -> None:
        seen = {f"{r['kind']} {r['key']}": r for r in records}
        gone = {key for key in self.revisions if key not in seen and not key.startswith("failed")}
        assert not gone, f"the ledger lost {gone}"
        for key, record in seen.items():
            assert record["revision"] >= self.revisions.get(key, 0), f"{key} went back to revision {record['revision']}"
            if record["kind"] == "event" and key in self.revisions:
                assert record["revision"] == self.revisions[key], f"{key} was rewritten"
            self.revisions[key] = record["revision"]
            body = record["body"]
            if record["kind"] == "range":
                before: Raw = self.ranges.get(key) or body
                assert (body["start"], body["end"]) == (before["start"], before["end"]), f"{key} was drawn again"
                assert body["is_done"] or not before["is_done"], f"{key} is no longer done"
                assert body["read"] >= before["read"], f"{key} went back"
                self.ranges[key] = body
            elif record["kind"] == "lease":
                assert body["epoch"] >= self.epoch
                self.epoch = body["epoch"]
            elif record["kind"] == "migration":
                found = Phase(body["phase"])
                assert found is self.phase or found in LEADS[self.phase], f"the phase went from {self.phase} to {found}"
                self.phase, self.migration = found, body


class Machine(RuleBasedStateMachine):
    """One migration, its app, its readers and its drivers."""

    server: QdrantServer
    name: str
    strategy: Literal["new_collection", "side_by_side"]
    portal: BlockingPortal
    settings_: Settings
    dead: set[str]
    number = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).number += 1
        self.world = World(self.server, f"{self.name}-{type(self).number}", is_beside=self.strategy == "side_by_side")
        self.watch = LedgerWatch()
        self.worker: Worker | None = None
        self.task: Any = None
        self.id = ""
        self.writes: Literal["frozen", "dual_write", "live"] = "live"
        self.on_missing_text: Literal["payload_only", "skip"] = "payload_only"
        self.is_paused = False
        self.is_broken = False
        self.is_carried_back_whole = False
        """A rollback was agreed to that makes writers wait, and no driver died since."""
        self.doubtful: dict[Id, State | None] = {}
        """Points of which the swap said that it cannot tell which side is newer, or that still got writes then."""
        self.delivered: set[str] = set()
        self._open = ExitStack()
        self.context: OperationContext = self._open.enter_context(
            self.portal.wrap_async_context_manager(OperationContext(self.settings_, ensure_driver=_nobody))
        )

    # --- what is so now

    @property
    def phase(self) -> Phase:
        return self.watch.phase

    @property
    def intent(self) -> str | None:
        found = self.watch.migration.get("intent")
        return str(found) if found is not None else None

    @property
    def is_serving_target(self) -> bool:
        return self.world.where() == self.world.target

    @property
    def may_write(self) -> bool:
        return self.writes != "frozen" or self.phase not in COPYING or self.is_serving_target

    @property
    def is_filling(self) -> bool:
        return bool(self.watch.migration.get("is_filling"))

    @property
    def is_filled(self) -> bool:
        """The target's new field is to hold the vectors of the texts."""
        return not self.world.is_beside or self.is_filling

    @contextmanager
    def step(self) -> Iterator[None]:
        """What fails here is the finding; the end of the example then looks at nothing more."""
        try:
            yield
            self.look()
        except BaseException:
            self.is_broken = True
            raise

    def look(self) -> None:
        """After every rule, and every few requests of a driver."""
        body = {
            "filter": {"must": [{"key": "migration_id", "match": {"value": self.id}}]},
            "limit": 1000,
            "with_payload": True,
        }
        ledger = f"/collections/{self.settings_.ledger}/points/scroll"
        self.watch.look([p["payload"] for p in self.world.rest.request("POST", ledger, body)["points"]])
        self.look_at_collections()

    def look_at_collections(self) -> None:
        """After every request of a driver."""
        self.world.query()
        error = self.watch.migration.get("error")
        assert error is None or "unexpectedly" not in error, error
        if self.phase is Phase.CUT_OVER or self.watch.migration.get("cutover") is not None:
            assert self.world.overwritten() == []
        elif self.world.fixed:
            # The target is a copy of the source again.
            assert self.world.newer() == [], "what was written through the alias is given up"
            self.world.fixed.clear()

    # --- the driver

    def drive(self, requests: int, between: Callable[[int], None] = lambda _: None) -> bool:
        """Let requests of the driver pass, one started if there is none; whether it has more to do."""
        if self.worker is None:
            self.worker = Worker(self.settings_, self.id)
            self.task = self.portal.start_task_soon(self.worker.run)
        passed = 0

        def after_each() -> None:
            nonlocal passed
            passed += 1
            if passed % LOOK_EVERY:
                self.look_at_collections()
            else:
                self.look()
            between(passed)

        has_more = bool(self.portal.call(self.worker.advance, requests, after_each))
        if self.worker.gate.is_over:
            self.task.result()
            self.worker = None
        self.collect()
        return has_more

    def kill(self) -> None:
        if self.worker is None:
            return
        self.is_carried_back_whole = False
        self.task.cancel()
        self.portal.call(self.worker.gate.settled)
        # It may have died before it knew that it has the lease.
        _, lease = self.call(self.ledger_of("lease"))
        if lease.owner is not None:
            self.dead.add(lease.owner)
        self.worker = None

    def collect(self) -> list[Operation]:
        """The operations that ended since."""
        ended: list[Operation] = []
        for operation in self.call(self.ledger_of("operations")):
            if operation.state not in ("done", "failed") or operation.key in self.delivered:
                continue
            if operation.kind == "swap":
                self.delivered.add(operation.key)
            assert operation.state == "done" or operation.is_refusal or "unexpectedly" not in (operation.error or ""), operation.error
            if operation.kind == "swap" and operation.result is not None and operation.arguments["direction"] == "back":
                assert self.world.source_problems() == []
                if self.is_carried_back_whole and not operation.result["write_gap"]["unresolved"]:
                    assert self.world.newer() == [], "written through the alias and not carried back"
            if operation.kind == "swap" and operation.result is not None and operation.arguments["direction"] == "forward":
                gap, notes = operation.result["write_gap"], operation.result["notes"]
                samples = {s.split(" ", 1)[0].partition(":")[2] for s in gap["unresolved_samples"]}
                late = self.world.late if notes or gap["unresolved"] > len(samples) else set()
                self.doubtful = {i: None for i in IDS if str(i) in samples or i in late}
                self.world.late.clear()
            self.call(partial(self._deliver, operation.key))
            ended.append(operation)
        return ended

    async def _deliver(self, key: str) -> None:
        ledger = await self.context.ledger()
        operation = await ledger.operation(self.id, key)
        if operation is not None and not operation.is_delivered:
            await ledger.deliver(self.id, key)

    def ledger_of(self, method: str) -> Callable[[], Any]:
        async def ask() -> Any:
            return await getattr(await self.context.ledger(), method)(self.id)

        return ask

    def call(self, act: Callable[[], Any]) -> Any:
        """As a call of the host, ungated."""
        return self.portal.call(act)

    def start_it(self, concurrency: int) -> None:
        self.call(lambda: start_backfill(self.context, migration_id=self.id, concurrency=concurrency))
        self.is_paused = False

    def ask(self, kind: OperationKind, direction: Direction = "forward", *, fence: bool = True) -> None:
        """Request an operation as a call does. A swap is planned, and agreed to, first.

        Raises:
            Refused: a gate does not hold.
        """

        async def act() -> None:
            ledger = await self.context.ledger()
            arguments: dict[str, Any] = {"provenance_sample": 100}
            key = operation_key(kind, arguments)
            if kind == "swap":
                plan = await plan_swap(self.context, ledger, await ledger.migration(self.id), direction, None, fence=fence)
                arguments, key = {"direction": direction, "alias": None, "code": plan.code}, f"swap-{plan.code}"
            await ledger.request(self.id, Operation(key=key, kind=kind, arguments=arguments, requested_at=now()))

        self.call(act)
        if kind == "swap":
            self.world.is_carried_back = self.world.is_beside and direction == "back"
            self.is_carried_back_whole = self.world.is_carried_back and fence
            self.world.late.clear()
            self.doubtful.clear()

    @property
    def pending(self) -> list[Operation]:
        return [o for o in self.call(self.ledger_of("operations")) if o.state in ("requested", "running")]

    # --- the app

    def write(self, write: Write) -> None:
        kind, point_id, is_other = write
        world = self.world
        if not self.may_write:
            return
        if not self.is_serving_target:
            if point_id in world.fixed:
                # Newer on both sides after a rollback: nobody but a person can tell which is to stay.
                return
            if point_id in world.pending:
                world.mirror(point_id)
            if not world.write_source(kind, point_id):
                return
            if (self.writes == "dual_write") != (is_other and self.writes == "live") and self.phase in (Phase.TARGET_CREATED, *COPYING):
                world.pending.append(point_id)
            return
        is_unmoved = is_other and self.writes == "live" and self.intent == "sweeping" and point_id not in world.fixed
        if is_unmoved:
            world.write_source(kind, point_id)
        else:
            world.write_through_alias(kind, point_id)

    def write_second(self) -> None:
        """The second half of a dual write, which may come at any time after the first."""
        if self.world.pending and self.phase in (Phase.TARGET_CREATED, *COPYING):
            self.world.mirror(self.world.pending[0])

    # --- rules

    @initialize(
        ids=st.sets(st.sampled_from(IDS), min_size=5),
        how=st.sampled_from(("live", "live", "dual_write", "frozen")),
        on_missing_text=st.sampled_from(("payload_only", "skip")),
        until=st.sampled_from((Phase.TARGET_CREATED, Phase.BACKFILLING, Phase.VERIFIED, Phase.VERIFIED, Phase.CUT_OVER)),
    )
    def begin(self, ids: set[Id], how: Any, on_missing_text: Any, until: Phase) -> None:
        """Create the target, and go on undisturbed to where the example is to begin."""
        self.writes, self.on_missing_text = how, on_missing_text
        with self.step():
            self.world.create(ids)
            request = Request(
                collection=self.world.source,
                strategy=self.strategy,
                model=MODEL,
                text_field="text",
                target=self.world.target,
                writes=how,
                on_missing_text=on_missing_text,
                new_vector=NEW if self.world.is_beside else None,
            )
            self.id = self.call(lambda: create_target(self.context, request)).migration_id
            if until is not Phase.TARGET_CREATED:
                self.start_it(1)
            if until in (Phase.VERIFIED, Phase.CUT_OVER):
                self.drive(LONG)
                self.ask("verify")
                self.drive(LONG)
            if until is Phase.CUT_OVER:
                self.ask("swap")
                self.drive(LONG)
            self.look()
            assert self.phase is until

    @rule(several=writes)
    def the_app_writes(self, several: list[Write]) -> None:
        with self.step():
            for one in several:
                self.write(one)

    @precondition(lambda self: bool(self.world.pending))
    @rule()
    def the_app_writes_to_the_other_side_as_well(self) -> None:
        with self.step():
            self.write_second()

    @precondition(
        lambda self: self.phase in (Phase.TARGET_CREATED, Phase.BACKFILLING, Phase.ROLLED_BACK) or self.watch.migration.get("error")
    )
    @rule(concurrency=st.integers(1, 2))
    def start(self, concurrency: int) -> None:
        with self.step():
            try:
                self.start_it(concurrency)
            except Refused:
                assert self.phase is Phase.CUT_OVER

    @precondition(
        lambda self: self.world.is_beside and not self.is_filling and self.phase in (Phase.BACKFILLED, Phase.VERIFIED, Phase.CUT_OVER)
    )
    @rule()
    def start_to_fill(self) -> None:
        with self.step():
            self.start_it(1)

    @rule(requests=st.integers(1, 12))
    def drive_a_little(self, requests: int) -> None:
        with self.step():
            self.drive(requests)

    @rule()
    def drive_until_idle(self) -> None:
        with self.step():
            self.drive(LONG)

    @rule(every=st.integers(1, 9), several=many, then=then)
    def drive_while_the_app_writes(self, every: int, several: list[list[Write]], then: str) -> None:
        with self.step():
            self.drive_under_writes(every, several, then)

    @precondition(lambda self: self.phase in (Phase.VERIFIED, Phase.CUT_OVER) and self.intent is None and not self.pending)
    @rule(every=st.integers(1, 9), several=many, then=then, fence=st.booleans())
    def swap_or_roll_back_while_the_app_writes(self, every: int, several: list[list[Write]], then: str, fence: bool) -> None:
        with self.step():
            self.ask("swap", "forward" if self.phase is Phase.VERIFIED else "back", fence=fence)
            self.drive_under_writes(every, several, then)

    def drive_under_writes(self, every: int, several: list[list[Write]], then: str) -> None:
        left = [one for group in several for one in group]

        def between(passed: int) -> None:
            if passed % every == 0 and left:
                self.write(left.pop(0))
            if passed % (every + 2) == 0:
                self.write_second()

        self.drive(every * len(left) if then == "die" else LONG, between)
        if then == "die":
            self.kill()

    @precondition(lambda self: self.worker is not None)
    @rule()
    def the_driver_dies(self) -> None:
        with self.step():
            self.kill()

    @precondition(lambda self: self.worker is not None)
    @rule()
    def the_driver_is_stopped(self) -> None:
        with self.step():
            assert self.worker is not None
            self.worker.ask_to_stop()
            self.drive(LONG)
            assert self.worker is None

    @precondition(lambda self: self.phase in COPYING)
    @rule()
    def pause_or_resume(self) -> None:
        with self.step():
            action: Literal["pause", "resume"] = "resume" if self.is_paused else "pause"
            self.call(lambda: control_backfill(self.context, migration_id=self.id, action=action))
            self.is_paused = not self.is_paused

    @precondition(lambda self: self.phase in (Phase.BACKFILLED, Phase.VERIFIED))
    @rule(kind=st.sampled_from(("verify", "repair")))
    def ask_to_verify_or_repair(self, kind: Any) -> None:
        with self.step():
            self.ask(kind)

    @precondition(lambda self: self.phase is Phase.VERIFIED and self.intent is None)
    @rule(fence=st.booleans())
    def ask_to_swap(self, fence: bool) -> None:
        with self.step():
            self.ask("swap", fence=fence)

    @precondition(lambda self: self.phase is Phase.CUT_OVER and self.intent is None and not self.pending)
    @rule(fence=st.booleans())
    def ask_to_roll_back(self, fence: bool) -> None:
        with self.step():
            self.ask("swap", "back", fence=fence)

    @precondition(lambda self: self.phase is Phase.ROLLED_BACK and bool(self.world.fixed))
    @rule()
    def copy_back_by_hand(self) -> None:
        with self.step():
            self.world.give_back()

    # --- always

    @invariant()
    def the_source_is_what_the_app_wrote(self) -> None:
        if self.id and not self.is_broken:
            with self.step():
                assert self.world.source_problems() == []

    @invariant()
    def a_target_that_serves_holds_all_that_the_source_had(self) -> None:
        if self.id and not self.is_broken and self.phase is Phase.CUT_OVER and self.intent is None and not self.pending:
            with self.step():
                self.check_serving()

    def check_serving(self) -> None:
        skips = self.on_missing_text == "skip"
        beside = {**self.doubtful, **self.world.fixed}
        assert self.world.target_problems(skips_textless=skips, is_filled=False, beside=beside) == []

    # --- the end

    def teardown(self) -> None:
        try:
            if self.id and not self.is_broken:
                self.conclude()
        finally:
            self.kill()
            self._open.close()
            self.world.remove()

    def conclude(self) -> None:
        """The writers stop, and everything is seen through: nothing is missing, nothing extra, nothing changed."""
        while self.world.pending and self.phase in (Phase.TARGET_CREATED, *COPYING):
            self.world.mirror(self.world.pending[0])
        if self.is_paused and self.phase in (Phase.TARGET_CREATED, *COPYING):
            self.call(lambda: control_backfill(self.context, migration_id=self.id, action="resume"))
        for _ in range(MOST_CALLS):
            self.drive(LONG)
            self.look()
            if self.pending:
                continue
            if self.phase in (Phase.TARGET_CREATED, Phase.BACKFILLING):
                self.start_it(2)
            elif self.phase is Phase.ROLLED_BACK:
                self.begin_again()
            elif self.phase is Phase.CUT_OVER:
                self.check_serving()
                if not self.world.is_beside:
                    return
                if self.is_filling and self.is_converged:
                    self.see_filled()
                    return
                self.start_it(2)
            else:
                self.see_repaired()
                if self.is_filled:
                    return
                self.start_it(2)
        raise AssertionError(f"no end after {MOST_CALLS} calls: {self.phase}, {self.watch.migration.get('error')}")

    @property
    def is_converged(self) -> bool:
        return bool((self.watch.migration.get("filled") or {}).get("has_converged"))

    def repaired(self) -> Raw:
        """What a repair came to, and its verification found."""
        self.ask("repair")
        self.drive(LONG)
        self.look()
        key = operation_key("repair", {"provenance_sample": 100})
        found = next(o for o in self.call(self.ledger_of("operations")) if o.key == key)
        assert found.result is not None, found
        return dict(found.result["verification"])

    def see_repaired(self) -> None:
        verification = self.repaired()
        skips = self.on_missing_text == "skip"
        assert self.world.target_problems(skips_textless=skips, is_filled=self.is_filled) == []
        assert verification["is_complete"], verification["problems"]

    def see_filled(self) -> None:
        verification = self.repaired()
        assert self.world.unlike_own_text() == []
        assert verification["is_complete"], verification["problems"]

    def begin_again(self) -> None:
        """Refused while the target holds what the source does not."""
        newer = self.world.newer()
        self.start_it(1)
        self.drive(LONG)
        self.look()
        if self.phase is Phase.ROLLED_BACK:
            assert self.watch.migration["error"].startswith("Not brought up to date"), self.watch.migration["error"]
            self.world.give_back()
            return
        assert newer == [], f"what was written through the alias to {newer} is given up"


@pytest.fixture
def machine(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Machine]]:
    """A class of machines on one server, whose ledger all its examples share."""
    for variable, value in {
        **server.environment,
        "QDRANT_MIGRATION_LEDGER": f"{name}-ledger",
        "QDRANT_MIGRATION_LEASE_SECONDS": "600",
    }.items():
        monkeypatch.setenv(variable, value)
    dead: set[str] = set()
    arm(monkeypatch, dead)
    with start_blocking_portal("asyncio") as portal:
        attributes = {"server": server, "name": name, "portal": portal, "settings_": read_settings(), "dead": dead}
        yield type("OneMachine", (Machine,), attributes)
    delete_collections(server.url, name)


@pytest.mark.slow
@pytest.mark.timeout(0 if SEED is not None else 900)
@pytest.mark.parametrize("strategy", ["new_collection", "side_by_side"])
def test_nothing_is_lost_whatever_is_written_between_the_requests_of_drivers_that_die(machine: type[Machine], strategy: str) -> None:
    machine.strategy = strategy  # type: ignore[assignment]
    # An example costs seconds: making a failing one smaller is for whoever looks into it.
    stages = [Stage.generate, Stage.shrink] if os.environ.get("MACHINE_SHRINK") else [Stage.generate]
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=SEED is None,
        database=None,
        phases=stages,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    if SEED is not None:
        seed(int(SEED))(machine)
    run_state_machine_as_test(machine, settings=chosen)
