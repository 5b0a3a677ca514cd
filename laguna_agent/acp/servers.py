"""MCP servers that the editor hands over, and what they ask the person through it.

https://agentclientprotocol.com/protocol/v1/session-setup#mcp-servers and /elicitation. Knows how both sides spell these
things; how a server is reached and used is the business of `laguna_agent.mcp`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import anyio.abc
import msgspec

from laguna_agent.acp import schema
from laguna_agent.acp.decoding import decode
from laguna_agent.agent.serving import start_servers
from laguna_agent.errors import LagunaError
from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.elicitation import Elicitation, ElicitationAnswer
from laguna_agent.visible import visible

if TYPE_CHECKING:
    from laguna_agent.acp.conversation import Conversation


async def connect(
    conversation: Conversation,
    servers: Iterable[schema.McpServer],
    client: schema.ClientCapabilities,
    group: anyio.abc.TaskGroup,
) -> None:
    """Start the servers of a session in tasks of `group`; what comes of them is seen by its next prompt."""
    offered = client.elicitation
    can_ask = offered is not None and (offered.form is not None or offered.url is not None)
    person = EditorsPerson(conversation, offered) if offered is not None and can_ask else None
    await start_servers(conversation.session, group, servers_of(servers), person)


def servers_of(servers: Iterable[schema.McpServer]) -> list[McpServer]:
    """The servers of a session/new, load or resume, described for the core. One without a type is a stdio server."""
    return [
        McpServer(
            server.name,
            server.type or "stdio",
            server.command or "",
            tuple(server.args or ()),
            {variable.name: variable.value for variable in server.env or ()},
            server.url or "",
            {header.name: header.value for header in server.headers or ()},
        )
        for server in servers
    ]


class EditorsPerson:
    """The person in the editor, asked in the ways that it has `offered`."""

    def __init__(self, conversation: Conversation, offered: schema.ElicitationCapabilities) -> None:
        self._conversation = conversation
        self._offered = offered

    async def elicit(self, question: Elicitation) -> ElicitationAnswer:
        mode = self._offered.form if question.schema is not None else self._offered.url
        if mode is None:
            return ElicitationAnswer("decline")
        try:
            request = request_of(question, self._conversation.session.id)
        except msgspec.ValidationError:
            # Not the flat object of plain fields that both protocols allow.
            return ElicitationAnswer("decline")
        # An editor cannot place a question about a call that it does not know yet.
        await self._conversation.call_shown(question.call_id)
        try:
            response = await self._conversation.peer.request(
                "elicitation/create", request, schema.CreateElicitationResponse
            )
        except LagunaError:
            return ElicitationAnswer("cancel")
        return answer_of(response)

    async def visited(self, id: str) -> None:
        await self._conversation.peer.notify(
            "elicitation/complete", schema.CompleteElicitationNotification(elicitation_id=id)
        )


def request_of(question: Elicitation, session_id: str) -> schema.CreateElicitationRequest:
    """The question as the editor gets it; raises msgspec.ValidationError for a form that it could not draw."""
    form = question.schema
    return schema.CreateElicitationRequest(
        message=visible(f"{question.server}: {question.message}"),
        mode="url" if form is None else "form",
        requested_schema=None if form is None else decode(form, schema.ElicitationSchema),
        session_id=session_id,
        tool_call_id=question.call_id,
        elicitation_id=None if form is not None else question.id,
        url=None if form is not None else question.url,
    )


def answer_of(response: schema.CreateElicitationResponse) -> ElicitationAnswer:
    """What the person did; anything that the protocol does not know counts as having turned away."""
    if response.action == "accept":
        return ElicitationAnswer("accept", response.content)
    return ElicitationAnswer("decline" if response.action == "decline" else "cancel")
