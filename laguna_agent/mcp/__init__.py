"""MCP servers, whose tools a session uses beside its own. https://modelcontextprotocol.io/specification/2025-11-25

    description   what a face hands over: a command, or a URL
    servers       all servers of one session: started, waited for, asked what they offer, called, ended
    connection    one of them, from its start to its end, in a task of its own
    process       a server's processes and their pipes; `transports`: the three ways to reach a server
    tool          a server's tool as a tool of the registry; `answers`: what it gave; `naming`: what it is called
    elicitation   a question of a server to the person

The protocol itself is spoken by the official package `mcp`. It is loaded by the first connection: importing this
package, and all but `connection` and `transports`, costs nothing.
"""
