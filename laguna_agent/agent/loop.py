"""The loop: ask the model, run what it calls, ask again; when it is done, hold it to the check.

    ask -> calls? -- yes -> execute each -> results go back ----------------+
             |                                                             |
             no -> no usable answer? -> say so, once ----------------------+-> ask
             |                                                             |
             done -> the person said something meanwhile? -> their words --+
                        | no                                               |
                      check passes (or none given)? -- no -> its output ---+
                        | yes
                      return

What the person says into the turn goes with the next request, whatever that is for; so `ask` begins with it.

Everything that can end a turn early is a LagunaError (see errors.py) and passes through here untouched.
"""

from __future__ import annotations

from laguna_agent.agent.turn import Turn


async def run_turn(turn: Turn) -> None:
    """Work on the newest prompt until the model is done; raises the LagunaError that ended the turn otherwise."""
    while True:
        reply = await turn.ask()
        calls = turn.dialect.calls(reply)
        if calls:
            results = [await turn.execution.run(call) for call in calls]
            if await turn.answer(calls, results):
                continue
        elif not turn.steering.waits and await turn.prompt_again(reply):
            continue
        if await turn.steered():
            continue
        if not await turn.correct() and not await turn.steered(last=True):
            return
