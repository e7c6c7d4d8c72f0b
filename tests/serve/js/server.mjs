// What the scripts of this folder share: the server that is tested, and packages out of set-up's folder.
import {createRequire} from "node:module";

// Of $KT_TEST_CACHE/serve/js/node_modules, where set-up puts what package-lock.json lists.
export const load = createRequire(`${process.env.KT_TEST_CACHE}/serve/js/`);

export const url = process.env.KT_URL;
export const model = process.env.KT_MODEL;
// Thinks "Hm.", says "I add." and calls add(1, 2) where there are tools, else says "Three.".
export const copycatUrl = process.env.KT_COPYCAT_URL;

export const parameters = {
  type: "object",
  properties: {a: {type: "integer"}, b: {type: "integer"}},
  required: ["a", "b"],
};
export const person = {
  type: "object",
  properties: {name: {type: "string", maxLength: 10}, age: {type: "integer", minimum: 0, maximum: 120}},
  required: ["name", "age"],
  additionalProperties: false,
};

/** Waits until no request runs on the server. */
export async function idle() {
  for (;;) {
    const slots = await (await fetch(`${url}/slots`)).json();
    if (slots.running === 0 && slots.waiting === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
