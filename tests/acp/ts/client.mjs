// Whole sessions with the official TypeScript SDK as the client.
//   node client.mjs CWD COMMAND ARGS...
// The model's answers are scripted by the caller. Prints one JSON report; any broken expectation throws.

import { spawn } from "node:child_process";
import { Readable, Writable } from "node:stream";
import * as acp from "@agentclientprotocol/sdk";

const [cwd, command, ...args] = process.argv.slice(2);
const report = { updates: [], asked: [], replayed: [], strays: [] };
let watcher = () => {};

function editor(updates) {
  return acp
    .client({ name: "test-editor" })
    .onNotification(acp.methods.client.session.update, ({ params }) => {
      updates.push(params.update);
      watcher(params.update);
    })
    .onNotification("*", ({ method }) => {
      report.strays.push(method);
    })
    .onRequest(acp.methods.client.session.requestPermission, ({ params }) => {
      report.asked.push(params.toolCall);
      const option = params.options.find((each) => each.kind === "allow_once");
      return { outcome: { outcome: "selected", optionId: option.optionId } };
    });
}

async function connected(updates, work) {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const exited = new Promise((resolve) => child.on("exit", resolve));
  const stream = acp.ndJsonStream(Writable.toWeb(child.stdin), Readable.toWeb(child.stdout));
  const result = await editor(updates).connectWith(stream, work);
  child.stdin.end();
  report.exitCode = await exited;
  return result;
}

const { agent } = acp.methods;
const text = (words) => [{ type: "text", text: words }];
const hello = (ctx) =>
  ctx.request(agent.initialize, {
    protocolVersion: acp.PROTOCOL_VERSION,
    clientCapabilities: { fs: { readTextFile: false, writeTextFile: false }, terminal: false },
    clientInfo: { name: "test-editor", version: "1" },
  });

report.sessionId = await connected(report.updates, async (ctx) => {
  report.initialized = await hello(ctx);
  await ctx.request(agent.authenticate, { methodId: report.initialized.authMethods[0].id });
  const { sessionId } = await ctx.request(agent.session.new, { cwd, mcpServers: [] });
  report.edited = await ctx.request(agent.session.prompt, { sessionId, prompt: text("Say goodbye instead") });

  const running = new Promise((resolve) => {
    watcher = (update) => update.sessionUpdate === "tool_call_update" && update.status === "in_progress" && resolve();
  });
  const prompted = ctx.request(agent.session.prompt, { sessionId, prompt: text("Run it for a long time") });
  await running;
  const begun = Date.now();
  await ctx.notify(agent.session.cancel, { sessionId });
  report.cancelled = await prompted;
  report.cancelMilliseconds = Date.now() - begun;

  const abort = new AbortController();
  const aborted = ctx.request(
    agent.session.prompt,
    { sessionId, prompt: text("Never mind") },
    { cancellationSignal: abort.signal },
  );
  abort.abort();
  report.aborted = await aborted;
  return sessionId;
});

await connected(report.replayed, async (ctx) => {
  await hello(ctx);
  await ctx.request(agent.session.load, { sessionId: report.sessionId, cwd, mcpServers: [] });
  report.replayedBeforeAnswer = report.replayed.length;
  report.continued = await ctx.request(agent.session.prompt, {
    sessionId: report.sessionId,
    prompt: text("What did I ask first?"),
  });
});

process.stdout.write(JSON.stringify(report));
