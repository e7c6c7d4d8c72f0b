// OpenAI's SDK for JavaScript against a running `kt serve`.
import assert from "node:assert/strict";
import test from "node:test";

import {copycatUrl, idle, load, model, parameters, person, url} from "./server.mjs";

const {default: OpenAI, APIUserAbortError, BadRequestError, NotFoundError} = load("openai");

const client = new OpenAI({baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0});
const copycat = new OpenAI({baseURL: `${copycatUrl}/v1`, apiKey: "none", maxRetries: 0});
const chat = {model, messages: [{role: "user", content: "Name three colours."}], temperature: 0, max_tokens: 16};
const sum = {
  model: "copycat",
  messages: [{role: "user", content: "1 + 2?"}],
  temperature: 0,
  tools: [{type: "function", function: {name: "add", parameters}}],
};

test("chat, whole and streamed", async () => {
  const whole = await client.chat.completions.create(chat);
  assert.ok(whole.choices[0].message.content);
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  const stream = client.chat.completions.stream({...chat, stream_options: {include_usage: true}});
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(await stream.finalContent(), text);
  assert.equal((await stream.totalUsage()).completion_tokens, whole.usage.completion_tokens);
});

test("tools, whole and streamed", async () => {
  const whole = await copycat.chat.completions.create(sum);
  const streamed = await copycat.chat.completions.stream(sum).finalChatCompletion();
  for (const {choices: [choice]} of [whole, streamed]) {
    assert.equal(choice.finish_reason, "tool_calls");
    const [call] = choice.message.tool_calls;
    assert.equal(call.function.name, "add");
    assert.deepEqual(JSON.parse(call.function.arguments), {a: 1, b: 2});
    assert.ok(call.id);
  }
});

test("the runner of tools calls functions", async () => {
  const called = [];
  const runner = copycat.chat.completions.runTools(
    {
      ...sum,
      tools: [{
        type: "function",
        function: {name: "add", parameters, parse: JSON.parse, function: (given) => called.push(given) && "3"},
      }],
    },
    {maxChatCompletions: 2},
  );
  await runner.done();
  assert.deepEqual(called, [{a: 1, b: 2}, {a: 1, b: 2}]);
});

test("structured output", async () => {
  const reply = await client.chat.completions.parse({
    ...chat,
    messages: [{role: "user", content: "Invent a person."}],
    max_tokens: 80,
    response_format: {type: "json_schema", json_schema: {name: "person", strict: true, schema: person}},
  });
  const made = JSON.parse(reply.choices[0].message.content);
  assert.deepEqual(Object.keys(made).sort(), ["age", "name"]);
  assert.equal(typeof made.age, "number");
});

test("responses, whole and streamed", async () => {
  const fields = {model, input: "Name three colours.", temperature: 0, max_output_tokens: 16};
  const whole = await client.responses.create(fields);
  assert.ok(whole.output_text);
  const streamed = await client.responses.stream(fields).finalResponse();
  assert.equal(streamed.output_text, whole.output_text);
});

test("completions that echo their prompt", async () => {
  const reply = await client.completions.create({model, prompt: "One, two,", echo: true, max_tokens: 0, logprobs: 1});
  assert.equal(reply.choices[0].text, "One, two,");
  assert.equal(reply.choices[0].logprobs.token_logprobs[0], null);
});

test("embeddings are the same as numbers and in base64", async () => {
  const coded = await client.embeddings.create({model, input: ["cat", "dog"]});
  const plain = await client.embeddings.create({model, input: ["cat", "dog"], encoding_format: "float"});
  assert.equal(coded.data.length, 2);
  assert.equal(coded.data[1].embedding.length, 576);
  coded.data[1].embedding.forEach((v, i) => assert.ok(Math.abs(v - plain.data[1].embedding[i]) < 1e-6));
});

test("errors are typed and named", async () => {
  await assert.rejects(client.chat.completions.create({...chat, temperature: 3}), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.param, "temperature");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(client.models.retrieve("other"), (error) => {
    assert.ok(error instanceof NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
});

test("an aborted stream ends its request", async () => {
  const stream = client.chat.completions.stream({...chat, max_tokens: 1800, ignore_eos: true});
  await assert.rejects(async () => {
    for await (const chunk of stream) if (chunk.choices[0].delta.content) stream.abort();
    await stream.done();
  }, APIUserAbortError);
  await idle();
});
