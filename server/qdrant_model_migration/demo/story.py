"""What is told about each answer? The facts a person would want to see before the next call, and the ending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_model_migration.demo.application import NEW_MODEL, OLD_MODEL, Application, Asked
from qdrant_model_migration.demo.place import Place
from qdrant_model_migration.demo.screen import Screen
from qdrant_model_migration.results import (
    CompareResult,
    CreateTargetResult,
    FinishResult,
    InspectResult,
    Recommendation,
    RecommendResult,
    Result,
    SwapResult,
    VerifyResult,
)


def tell(screen: Screen, answer: Result) -> None:
    """Show an answer: its summary and warnings, and what is in it."""
    screen.say(f"  {answer.summary}")
    screen.warn([text for text in answer.warnings if text])
    match answer:
        case InspectResult():
            _tell_inspection(screen, answer)
        case RecommendResult():
            for recommendation in answer.recommendations[:1]:
                _tell_card(screen, answer, recommendation)
        case CreateTargetResult():
            if answer.app_changes:
                screen.say("  What the app must change:")
                screen.points(answer.app_changes)
        case VerifyResult() if answer.is_complete is not None:
            screen.say(
                f"  missing {answer.missing}, extra {answer.extra}, changed {answer.changed}, bad vectors {answer.bad_vectors}; "
                f"{answer.provenance.sampled} vectors embedded again, least cosine {answer.provenance.min_cosine}"
            )
        case CompareResult() if answer.verdict is not None:
            tell_metrics(screen, answer)
        case SwapResult() if answer.plan is not None:
            _tell_swap_plan(screen, answer)
        case FinishResult() if answer.plan is not None:
            screen.say(f"  deletes: {', '.join(answer.plan.deletes) or 'nothing'}; keeps: {', '.join(answer.plan.keeps)}")
            screen.say(f"  undo: {answer.plan.undo}")
        case _:
            pass


def _tell_inspection(screen: Screen, answer: InspectResult) -> None:
    found = answer.collection
    if found is None:
        return
    vectors = ", ".join(f"{v.name or 'unnamed'} ({v.size} dimensions, {v.distance})" for v in found.vectors)
    texts = ", ".join(f"{t.field} ({t.coverage:.0%})" for t in found.text_fields[:4])
    screen.say(f"  points {found.points:,}; vectors {vectors}; text in {texts}; aliases {', '.join(found.aliases) or 'none'}")
    if found.provenance is not None and found.provenance.model:
        screen.say(f"  made by {found.provenance.model} (known from {found.provenance.source})")


def _tell_card(screen: Screen, answer: RecommendResult, best: Recommendation) -> None:
    match = answer.source_match
    if match is not None:
        verdict = "is" if match.is_match else "is NOT"
        screen.say(
            f"  the stored vectors: {match.model} {verdict} the model that made them (mean cosine {match.mean_cosine}, {match.sampled} texts)"
        )
    card = best.card
    screen.say(f"  The decision card of '{best.strategy}':")
    rows = [
        ("points", f"{card.points:,}"),
        ("tokens", f"{card.tokens:,}" if card.tokens is not None else "unknown"),
        ("cost", f"USD {card.cost_usd:.2f}" if card.cost_usd is not None else "none, the model runs on this machine"),
        ("time", f"about {max(1.0, card.seconds):.0f} s" if card.seconds is not None else "unknown"),
        ("more disk", f"{card.disk_bytes / 1e6:.1f} MB" if card.disk_bytes is not None else "unknown"),
        ("more RAM", f"{card.ram_bytes / 1e6:.1f} MB" if card.ram_bytes is not None else "unknown"),
        ("undo", card.undo),
    ]
    screen.points([f"{name}: {value}" for name, value in rows])
    screen.points([f"for: {reason}" for reason in best.reasons])
    screen.points([f"risk: {risk}" for risk in best.risks])


def tell_metrics(screen: Screen, answer: CompareResult) -> None:
    """Every metric of both models as measured, whatever they say."""
    baseline = {metric.metric: metric.value for metric in answer.metrics if metric.difference is None}
    rows = []
    for metric in answer.metrics:
        if metric.difference is None:
            continue
        interval = "" if metric.ci_low is None or metric.ci_high is None else f"{metric.ci_low:+.3f} to {metric.ci_high:+.3f}"
        before = baseline.get(metric.metric)
        rows.append(
            (metric.metric, "" if before is None else f"{before:.3f}", f"{metric.value:.3f}", f"{metric.difference:+.3f}", interval)
        )
    screen.table(("metric", "old model", "new model", "difference", "95 % interval"), rows)


def _tell_swap_plan(screen: Screen, answer: SwapResult) -> None:
    plan = answer.plan
    assert plan is not None
    screen.say("  The plan of the cutover:")
    screen.points([f"{move.alias}: {move.from_collection or '(new)'} -> {move.to_collection}" for move in plan.moves])
    screen.points([f"{name}: {number:,}" for name, number in plan.counts.items()])
    screen.points([f"comparison: {plan.comparison}"])
    screen.points([f"breaks: {text}" for text in plan.breaks])
    screen.points([f"accepts: {text}" for text in plan.overrides])
    screen.points([f"undo: {plan.undo}"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the ending tells."""

    points: int
    target: str
    comparison: CompareResult
    asked: Sequence[Asked]
    refused: str | None
    """What a reader is told that kept the old model after the swap; None when it was answered."""
    finished: FinishResult
    seconds: float


def tell_ending(screen: Screen, place: Place, app: Application, outcome: Outcome) -> None:
    """The readable ending."""
    comparison, finished, target = outcome.comparison, outcome.finished, outcome.target
    screen.heading("What happened")
    screen.say(f"Found: {outcome.points:,} documents in '{place.source}' behind the alias '{place.alias}', with vectors of {OLD_MODEL}.")
    screen.say(f"Moved: all of them to '{target}', with vectors of {NEW_MODEL}.")
    counts = ", ".join(f"{app.answered[moment]:,} {moment}" for moment in ("before the migration", "while it ran", "after the swap"))
    screen.say(f"The app searched all the while: {counts}. Failed queries: {len(app.failures)}.")
    if outcome.refused is not None:
        screen.say(f"A reader that goes on with the old model fails now, as the plan said: {outcome.refused}")

    screen.heading("How the two models differ")
    screen.say(
        f"Verdict on {comparison.queries} {'judged' if comparison.is_judged else 'unjudged'} questions: the new model is {comparison.verdict}."
    )
    tell_metrics(screen, comparison)
    _tell_examples(screen, outcome.asked)
    screen.say(
        "Both models are built in and lexical: they compare word forms, not meaning. They need no download and serve for demonstration only, "
        "never for production."
    )

    screen.heading("What is where now")
    screen.say(f"The alias '{place.alias}' points to '{target}'.")
    screen.points([f"kept: {text}" for text in finished.kept])
    screen.points([f"deleted: {text}" for text in finished.deleted])
    screen.say(f"From the first document to here it took {outcome.seconds:.1f} s.")


def tell_next(screen: Screen) -> None:
    """How to come from here to one's own collection."""
    screen.heading("Next")
    screen.say(
        "Connect your assistant: qdrant-model-migration config claude-desktop (or vscode, cursor, claude-code), with QDRANT_URL set."
    )
    screen.say('Then say: "Move my docs collection to a better embedding model."')


def _tell_examples(screen: Screen, asked: Sequence[Asked]) -> None:
    """The two questions that gained most, and the one that lost most."""
    ranked = sorted(asked, key=lambda one: -one.gain)
    better, worse = [one for one in ranked if one.gain > 0], [one for one in ranked if one.gain < 0]
    screen.say(
        f"Of {len(asked)} questions {len(better)} find their paragraph earlier than before, {len(worse)} later, the others where it was."
    )
    for kind, one in [*(("gained", one) for one in better[:2]), *(("lost", one) for one in worse[-1:])]:
        screen.say(f'One that {kind}: "{one.text}"')
        screen.say(f"  old model: {_place(one.old_rank)}; first: {one.old_first}")
        screen.say(f"  new model: {_place(one.new_rank)}; first: {one.new_first}")


def _place(rank: int | None) -> str:
    return "the right paragraph is not among the first ten" if rank is None else f"the right paragraph is number {rank}"
