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
      await editor.until((update) => update.status === "in_progress");
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
};

await SCENARIOS[scenario]();
