// Anthropic's SDK for JavaScript against a running `kt serve`.
import assert from "node:assert/strict";
import test from "node:test";

import {copycatUrl, idle, load, model, parameters, person, url} from "./server.mjs";

const {default: Anthropic, APIUserAbortError, BadRequestError, NotFoundError} = load("@anthropic-ai/sdk");

const client = new Anthropic({baseURL: url, apiKey: "none", maxRetries: 0});
const copycat = new Anthropic({baseURL: copycatUrl, apiKey: "none", maxRetries: 0});
const message = {model, messages: [{role: "user", content: "Name three colours."}], max_tokens: 16, temperature: 0};
const sum = {
  model: "copycat",
  messages: [{role: "user", content: "1 + 2?"}],
  max_tokens: 80,
  temperature: 0,
  thinking: {type: "enabled", budget_tokens: 40},
  tools: [{name: "add", input_schema: parameters}],
};

test("messages, whole and streamed", async () => {
  const whole = await client.messages.create(message);
  assert.ok(whole.content[0].text);
  const stream = client.messages.stream(message);
  let text = "";
  stream.on("text", (piece) => (text += piece));
  const streamed = await stream.finalMessage();
  assert.equal(text, whole.content[0].text);
  assert.deepEqual(streamed.content, whole.content);
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
  assert.equal(streamed.stop_reason, whole.stop_reason);
});

test("thinking and tools, whole and streamed", async () => {
  for (const reply of [await copycat.messages.create(sum), await copycat.messages.stream(sum).finalMessage()]) {
    const [thinking, text, call] = reply.content;
    assert.equal(thinking.thinking.trim(), "Hm.");
    assert.equal(text.text.trim(), "I add.");
    assert.equal(call.name, "add");
    assert.deepEqual(call.input, {a: 1, b: 2});
    assert.equal(reply.stop_reason, "tool_use");
  }
});

test("a result of a tool goes back", async () => {
  const first = await copycat.messages.create(sum);
  const result = {type: "tool_result", tool_use_id: first.content[2].id, content: "3"};
  const messages = [
    ...sum.messages,
    {role: "assistant", content: first.content},
    {role: "user", content: [result]},
  ];
  assert.equal((await copycat.messages.create({...sum, messages})).content.at(-1).type, "tool_use");
});

test("structured output", async () => {
  const reply = await client.messages.create({
    ...message,
    max_tokens: 80,
    output_config: {format: {type: "json_schema", schema: person}},
  });
  assert.deepEqual(Object.keys(JSON.parse(reply.content[0].text)).sort(), ["age", "name"]);
});

test("tokens are counted", async () => {
  const {input_tokens: n} = await client.messages.countTokens({model, messages: message.messages});
  const {usage} = await client.messages.create(message);
  assert.equal(n, usage.input_tokens + usage.cache_read_input_tokens);
});

test("errors are typed", async () => {
  await assert.rejects(client.messages.create({...message, temperature: 3}), BadRequestError);
  await assert.rejects(client.messages.create({...message, model: "other"}), NotFoundError);
});

test("an aborted stream ends its request", async () => {
  const stream = client.messages.stream({...message, max_tokens: 1800});
  stream.on("text", () => stream.abort());
  await assert.rejects(stream.finalMessage(), APIUserAbortError);
  await idle();
});
