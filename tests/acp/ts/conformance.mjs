// The TypeScript SDK's part of the conformance suite.
//   node conformance.mjs SCENARIO CWD COMMAND ARGS...
// The model is scripted by the caller, and what is said is recorded and judged there; here a broken expectation throws.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Editor, agent, connected, hello, text } from "./editor.mjs";

const [scenario, cwd, ...command] = process.argv.slice(2);
const prompt = (ctx, sessionId, words) => ctx.request(agent.session.prompt, { sessionId, prompt: text(words) });
const opening = { cwd, mcpServers: [] };
const further = process.env.FURTHER_DIRECTORY;

const SCENARIOS = {
  // A turn with everything in it: thought, text, plan, an unsaved buffer read, an edit, a command, a refusal.
  async turn() {
    const editor = new Editor();
    const path = join(cwd, "greet.py");
    await connected(editor, command, async (ctx) => {
      const { authMethods } = await hello(ctx);
      const method = authMethods.find((each) => each.type === undefined || each.type === "agent");
      await ctx.request(agent.authenticate, { methodId: method.id });
      const { sessionId } = await ctx.request(agent.session.new, opening);
      assert.equal((await prompt(ctx, sessionId, "Say goodbye instead")).stopReason, "end_turn");
      editor.answer = "reject_once";
      assert.equal((await prompt(ctx, sessionId, "Now delete it")).stopReason, "end_turn");
    });
    assert.match(await readFile(path, "utf8"), /goodbye/);
    assert.equal(editor.terminals.size, 0);
  },

  // Cancelled while a command runs, while the person is asked, by $/cancel_request, and at once; then loaded.
  async cancel() {
    const editor = new Editor();
    const session = await connected(editor, command, async (ctx) => {
      await hello(ctx);
      const { sessionId } = await ctx.request(agent.session.new, opening);
      const running = prompt(ctx, sessionId, "Run it for a long time");
      await editor.until((update) => (update.content ?? []).some?.((part) => part.type === "terminal"));
      await ctx.notify(agent.session.cancel, { sessionId });
      assert.equal((await running).stopReason, "cancelled");

      const abort = new AbortController();
      const aborted = ctx.request(
        agent.session.prompt,
        { sessionId, prompt: text("Never mind") },
        { cancellationSignal: abort.signal },
      );
      abort.abort();
      assert.equal((await aborted).stopReason, "cancelled");

      const at_once = prompt(ctx, sessionId, "Not this either");
      await ctx.notify(agent.session.cancel, { sessionId });
      assert.equal((await at_once).stopReason, "cancelled");
      assert.equal((await prompt(ctx, sessionId, "What is left?")).stopReason, "end_turn");
      return sessionId;
    });
    const again = new Editor();
    await connected(again, command, async (ctx) => {
      await hello(ctx);
      await ctx.request(agent.session.load, { ...opening, sessionId: session });
      assert.equal(again.updates[0].sessionUpdate, "user_message_chunk");
      assert.equal((await prompt(ctx, session, "And now?")).stopReason, "end_turn");
    });
  },

  // The editor is closed while a command runs; the next one finds the session as it was left.
  async leave() {
    const editor = new Editor();
    const session = await connected(editor, command, async (ctx) => {
      await hello(ctx);
      const { sessionId } = await ctx.request(agent.session.new, opening);
      prompt(ctx, sessionId, "Run it for a long time").catch(() => {});
      await editor.until((update) => (update.content ?? []).some?.((part) => part.type === "terminal"));
      return sessionId;
    });
    const again = new Editor();
    await connected(again, command, async (ctx) => {
      await hello(ctx);
      await ctx.request(agent.session.load, { ...opening, sessionId: session });
      assert.equal(again.updates.find((update) => update.sessionUpdate === "tool_call").toolCallId, "call_1");
      assert.equal((await prompt(ctx, session, "Where were we?")).stopReason, "end_turn");
    });
  },

  // An MCP server of the editor's, which asks the person: by a form, and for a visit to a page.
  async servers() {
    const editor = new Editor();
    const [program, ...args] = JSON.parse(process.env.MCP_SERVER);
    const server = { name: "bare", command: program, args, env: [{ name: "FLAVOUR", value: "sour" }] };
    await connected(editor, command, async (ctx) => {
      await hello(ctx);
      const { sessionId } = await ctx.request(agent.session.new, { cwd, mcpServers: [server] });
      assert.equal((await prompt(ctx, sessionId, "Ask me for a colour")).stopReason, "end_turn");
    });
    assert.deepEqual(editor.elicited, ["form", "url"]);
  },

  // In, out and in again; and a method that nobody has.
  async login() {
    const editor = new Editor();
    await connected(editor, command, async (ctx) => {
      const { authMethods } = await hello(ctx);
      assert.ok(authMethods.some((each) => each.type === "terminal"));
      await ctx.request(agent.session.new, opening);
      await ctx.request(agent.logout, {});
      await refused(-32000, ctx.request(agent.session.new, opening));
      await refused(-32602, ctx.request(agent.authenticate, { methodId: "by carrier pigeon" }));
      await refused(-32000, ctx.request(agent.session.new, opening));
      await ctx.request(agent.authenticate, { methodId: authMethods[0].id });
      const { sessionId } = await ctx.request(agent.session.new, opening);
      await refused(-32601, ctx.request("_pigeon/send", {}));
      assert.equal((await prompt(ctx, sessionId, "Are you there?")).stopReason, "end_turn");
    });
  },

  // The life of sessions and their settings: everything that is no turn.
  async sessions() {
    const editor = new Editor();
    await connected(editor, command, async (ctx) => {
      const { agentCapabilities } = await hello(ctx);
      assert.ok(agentCapabilities.sessionCapabilities.resume);
      const session = await ctx.request(agent.session.new, { ...opening, additionalDirectories: [further] });
      const { sessionId, configOptions, modes } = session;
      await editor.untilDone("available_commands_update");
      const other = modes.availableModes.find((mode) => mode.id !== modes.currentModeId).id;
      await ctx.request(agent.session.setMode, { sessionId, modeId: other });
      await editor.untilDone("config_option_update");
      for (const { id, currentValue, options } of configOptions) {
        const value = (options.find((each) => each.value !== currentValue) ?? options[0]).value;
        await ctx.request(agent.session.setConfigOption, { sessionId, configId: id, value });
        await ctx.request(agent.session.setConfigOption, { sessionId, configId: id, value: currentValue });
      }
      await editor.untilDone("current_mode_update");
      await refused(-32602, ctx.request(agent.session.setMode, { sessionId, modeId: "sleepy" }));
      await refused(-32602, ctx.request(agent.session.setConfigOption, { sessionId, configId: "mode", value: "sleepy" }));
      await refused(-32602, ctx.request(agent.session.setConfigOption, { sessionId, configId: "x", value: "y" }));

      assert.equal((await prompt(ctx, sessionId, "What is there?")).stopReason, "end_turn");
      for (const words of ["/usage", "/compact", "/usage"]) {
        assert.equal((await prompt(ctx, sessionId, words)).stopReason, "end_turn");
      }
      await listedAndReopened(ctx, editor, sessionId);
    });
  },
};

async function listedAndReopened(ctx, editor, sessionId) {
  const second = (await ctx.request(agent.session.new, opening)).sessionId;
  assert.equal((await prompt(ctx, second, "And here?")).stopReason, "end_turn");
  await ctx.request(agent.session.close, { sessionId });
  await refused(-32002, prompt(ctx, sessionId, "Are you there?"));
  const listed = (await ctx.request(agent.session.list, { cwd })).sessions.map((each) => each.sessionId);
  assert.deepEqual(new Set(listed), new Set([sessionId, second]));
  assert.deepEqual((await ctx.request(agent.session.list, { cwd: further })).sessions, []);
  await refused(-32602, ctx.request(agent.session.list, { cursor: "no such page" }));

  const before = editor.updates.length;
  await ctx.request(agent.session.resume, { ...opening, sessionId });
  assert.equal(editor.updates.length, before);
  assert.equal((await prompt(ctx, sessionId, "Where were we?")).stopReason, "end_turn");
  assert.equal((await prompt(ctx, sessionId, "/compact")).stopReason, "end_turn");
  await ctx.request(agent.session.load, { ...opening, sessionId });
  assert.equal(editor.updates.findLast((update) => update.sessionUpdate === "user_message_chunk").content.text, "/compact");
  await ctx.request(agent.session.delete, { sessionId });
  await ctx.request(agent.session.delete, { sessionId });
  assert.deepEqual((await ctx.request(agent.session.list, {})).sessions.map((each) => each.sessionId), [second]);
  await refused(-32002, ctx.request(agent.session.load, { ...opening, sessionId }));
}

async function refused(code, request) {
  const error = await request.then(() => assert.fail("this must be refused"), (error) => error);
  assert.equal(error.code, code, error.message);
}

await SCENARIOS[scenario]();
