"""How does a test lead a migration to a given point? By next steps alone, with the person's yes to every plan."""

from __future__ import annotations

from typing import Any

import anyio

from tests.mcp.hosts import Answer, Host

MOST_STEPS = 40


async def drive(host: Host, tool: str, arguments: dict[str, Any], *, before: str) -> Answer:
    """Call, and go on as the answers say, until the next step would be the tool `before`; that answer."""
    path: list[str] = []
    for _ in range(MOST_STEPS):
        path.append(tool)
        answer = await host.call(tool, **arguments)
        if answer.get("plan"):
            arguments = {**arguments, "plan": answer["plan"]["code"]}
            continue
        step = answer["next_step"]
        if step is None and answer["check_again_after_s"]:
            await anyio.sleep(0.5)
            continue
        assert step is not None, f"{tool} leads nowhere: {answer['summary']} {answer['warnings']}"
        if step["tool"] == before:
            return answer
        tool, arguments = step["tool"], step["arguments"]
    raise AssertionError(f"{before} was not reached: {path}")


async def agreed(host: Host, tool: str, **arguments: Any) -> Answer:
    """Both calls of a plan, seen through to its end."""
    planned = await host.call(tool, **arguments)
    assert planned["plan"], planned["summary"]
    answer = await host.call(tool, **arguments, plan=planned["plan"]["code"])
    while answer["state"] == "running":
        answer = await host.call(tool, **arguments, plan=planned["plan"]["code"])
    assert answer["refusal"] is None, answer["refusal"]
    return answer
