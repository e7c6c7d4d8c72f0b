// Ollama's library for JavaScript against a running `kt serve`.
import assert from "node:assert/strict";
import test from "node:test";

import {copycatUrl, idle, load, model, parameters, person, url} from "./server.mjs";

const {Ollama} = load("ollama");

const client = new Ollama({host: url});
const copycat = new Ollama({host: copycatUrl});
const options = {temperature: 0, num_predict: 16};
const chat = {model, messages: [{role: "user", content: "Name three colours."}], options};
const sum = {
  model: "copycat",
  messages: [{role: "user", content: "1 + 2?"}],
  think: true,
  tools: [{type: "function", function: {name: "add", parameters}}],
  options: {temperature: 0, num_predict: 80},
};

test("chat, whole and streamed", async () => {
  const whole = await client.chat(chat);
  assert.ok(whole.message.content);
  let text = "";
  let last;
  for await (last of await client.chat({...chat, stream: true})) text += last.message.content;
  assert.equal(text, whole.message.content);
  assert.ok(last.done);
  assert.equal(last.eval_count, whole.eval_count);
});

test("generate", async () => {
  const reply = await client.generate({model, prompt: "Name three colours.", options});
  assert.ok(reply.response && reply.context.length > 0);
});

test("thinking and tools, whole and streamed", async () => {
  const check = (thinking, calls) => {
    assert.equal(thinking.trim(), "Hm.");
    assert.equal(calls[0].function.name, "add");
    assert.deepEqual(calls[0].function.arguments, {a: 1, b: 2});
  };
  const {message} = await copycat.chat(sum);
  check(message.thinking, message.tool_calls);
  let thinking = "";
  const calls = [];
  for await (const part of await copycat.chat({...sum, stream: true})) {
    thinking += part.message.thinking ?? "";
    calls.push(...(part.message.tool_calls ?? []));
  }
  check(thinking, calls);
});

test("structured output", async () => {
  const reply = await client.chat({...chat, format: person, options: {temperature: 0, num_predict: 80}});
  assert.deepEqual(Object.keys(JSON.parse(reply.message.content)).sort(), ["age", "name"]);
});

test("embeddings", async () => {
  const {embeddings} = await client.embed({model, input: ["cat", "dog"]});
  assert.deepEqual(embeddings.map((e) => e.length), [576, 576]);
});

test("models", async () => {
  assert.deepEqual((await client.list()).models.map((m) => m.name), [`${model}:latest`]);
  assert.equal((await client.ps()).models.length, 1);
  assert.deepEqual((await copycat.show({model: "copycat"})).capabilities, ["completion", "tools", "thinking"]);
});

test("errors have a status and say why", async () => {
  await assert.rejects(client.chat({...chat, model: "other"}), (error) => {
    assert.equal(error.status_code, 404);
    assert.match(error.message, /other/);
    return true;
  });
  await assert.rejects(client.chat({...chat, format: {type: "nonsense"}}), {status_code: 400});
});

test("an aborted stream ends its request", async () => {
  const stream = await client.chat({...chat, stream: true, options: {num_predict: 1800}});
  await assert.rejects(async () => {
    for await (const part of stream) if (part.message.content) stream.abort();
  }, {name: "AbortError"});
  await idle();
});
