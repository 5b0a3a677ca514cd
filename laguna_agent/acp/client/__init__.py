"""The other side of the protocol: this program as the client of any ACP agent, whose turns become our own events.

    agent        one foreign agent from its start to its end: its session, prompts, choices
    connection   its process and the peer on its pipes, and what is said when it fails
    process      the process: the person's environment, its last words
    incoming     events on their way to the face, bounded
    translation  session/update -> events; `calls` follows the tool calls, `usage` what they cost
    choices      the modes and options that it offers
    verdicts     how a turn ended, in our words
    served       what it may ask of us: `questions` to the person, `files` and `terminals` on the `ground` that they
                 stand on, the workspace behind the same walls as for our own tools

Importing this package imports none of them.
"""
