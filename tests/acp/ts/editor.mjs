// An editor made with the official TypeScript SDK: files with unsaved buffers, real terminals, a person who answers.

import { spawn } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { Readable, Writable } from "node:stream";
import * as acp from "@agentclientprotocol/sdk";

export const { agent } = acp.methods;
const methods = acp.methods.client;

export const EVERYTHING = {
  fs: { readTextFile: true, writeTextFile: true },
  terminal: true,
  elicitation: { form: {}, url: {} },
  auth: { terminal: true },
  session: { notices: {}, compaction: {}, configOptions: { boolean: {} } },
};

export const text = (words) => [{ type: "text", text: words }];

export class Editor {
  constructor() {
    this.updates = [];
    this.asked = [];
    this.elicited = [];
    this.buffers = new Map();
    this.terminals = new Map();
    this.answer = "allow_once";
    this.watchers = new Set();
  }

  // Resolves with the first update, from now on or seen before, that is as wanted.
  until(wanted) {
    return new Promise((resolve) => {
      const seen = this.updates.find(wanted);
      if (seen) resolve(seen);
      const watcher = (update) => wanted(update) && (this.watchers.delete(watcher), resolve(update));
      this.watchers.add(watcher);
    });
  }

  untilDone(variant) {
    return this.until((update) => update.sessionUpdate === variant);
  }

  app() {
    return acp
      .client({ name: "conformance" })
      .onNotification(methods.session.update, ({ params }) => {
        this.updates.push(params.update);
        for (const watcher of [...this.watchers]) watcher(params.update);
      })
      .onNotification(methods.elicitation.complete, () => {})
      .onRequest(methods.session.requestPermission, ({ params }) => this.decide(params))
      .onRequest(methods.elicitation.create, ({ params }) => this.elicit(params))
      .onRequest(methods.fs.readTextFile, async ({ params }) => ({ content: await this.read(params) }))
      .onRequest(methods.fs.writeTextFile, async ({ params }) => {
        this.buffers.delete(params.path);
        await writeFile(params.path, params.content);
        return {};
      })
      .onRequest(methods.terminal.create, ({ params }) => this.open(params))
      .onRequest(methods.terminal.output, ({ params }) => this.terminal(params).shown())
      .onRequest(methods.terminal.waitForExit, ({ params }) => this.terminal(params).exited)
      .onRequest(methods.terminal.kill, ({ params }) => (this.terminal(params).kill(), {}))
      .onRequest(methods.terminal.release, ({ params }) => {
        this.terminal(params).kill();
        this.terminals.delete(params.terminalId);
        return {};
      });
  }

  decide(params) {
    this.asked.push(params.toolCall);
    if (this.answer === "cancelled") return { outcome: { outcome: "cancelled" } };
    const option = params.options.find((each) => each.kind === this.answer);
    return { outcome: { outcome: "selected", optionId: option.optionId } };
  }

  elicit({ mode, requestedSchema }) {
    this.elicited.push(mode);
    if (mode === "url") return { action: "accept" };
    const fields = Object.entries(requestedSchema.properties);
    return { action: "accept", content: Object.fromEntries(fields.map(([name, field]) => [name, field.enum[0]])) };
  }

  async read({ path, line, limit }) {
    let content = this.buffers.get(path);
    if (content === undefined) {
      content = await readFile(path, "utf8").catch((error) => {
        throw new acp.RequestError(-32002, error.message);
      });
    }
    if (line == null && limit == null) return content;
    const lines = content.split(/(?<=\n)/);
    const first = (line ?? 1) - 1;
    return lines.slice(first, limit == null ? undefined : first + limit).join("");
  }

  open({ command, args, cwd, env }) {
    const terminalId = `terminal-${this.terminals.size + 1}-${Date.now()}`;
    this.terminals.set(terminalId, new Terminal(command, args ?? [], cwd, env ?? []));
    return { terminalId };
  }

  terminal({ terminalId }) {
    const terminal = this.terminals.get(terminalId);
    if (!terminal) throw new acp.RequestError(-32002, `no terminal ${terminalId}`);
    return terminal;
  }
}

class Terminal {
  constructor(command, args, cwd, env) {
    const variables = Object.fromEntries(env.map(({ name, value }) => [name, value]));
    this.output = "";
    this.child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...variables },
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      shell: args.length === 0,
    });
    this.exited = new Promise((resolve) => {
      this.child.on("error", () => resolve({ exitCode: 127, signal: null }));
      this.child.on("close", (exitCode, signal) => resolve({ exitCode, signal }));
    });
    this.exited.then((status) => (this.status = status));
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on("data", (data) => (this.output += data));
  }

  shown() {
    return { output: this.output, truncated: false, ...(this.status ? { exitStatus: this.status } : {}) };
  }

  kill() {
    try {
      if (!this.status) process.kill(-this.child.pid, "SIGKILL");
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    }
  }
}

// Start the agent, talk to it with `work(context)`, close its stdin and wait for its end.
export async function connected(editor, command, work) {
  const child = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
  const exited = new Promise((resolve) => child.on("exit", resolve));
  const stream = acp.ndJsonStream(Writable.toWeb(child.stdin), Readable.toWeb(child.stdout));
  const result = await editor.app().connectWith(stream, work);
  child.stdin.end();
  const code = await exited;
  if (code !== 0) throw new Error(`the agent ended with ${code}`);
  return result;
}

export const hello = (ctx, clientCapabilities = EVERYTHING) =>
  ctx.request(agent.initialize, {
    protocolVersion: acp.PROTOCOL_VERSION,
    clientCapabilities,
    clientInfo: { name: "conformance", version: "1" },
  });
