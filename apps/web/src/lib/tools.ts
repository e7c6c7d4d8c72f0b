/**
 * Tools: the definitions that a user pastes, the calls that a model writes, the results that a user gives.
 * Definitions are those of OpenAI's API; the part inside `function` alone is taken too.
 */
import { isObject } from './json';

export interface ToolCall {
  id: string;
  name: string;
  /** JSON text of an object; broken when the reply was cut off inside it. */
  arguments: string;
}

/** What a call gave back. Its id and name are the call's. */
export interface ToolResult {
  id: string;
  name: string;
  content: string;
}

export interface Tool {
  type: 'function';
  function: { name: string; description?: string; parameters?: object };
}

/** What is wrong with the definitions: a text of the page (`Texts`) and its values. */
export interface ToolsProblem {
  text: 'toolsNoJson' | 'toolsNoList' | 'toolNoName' | 'toolBadName' | 'toolTwice' | 'toolBadParameters';
  values: Record<string, string | number>;
}

export type ToolsRead = { tools: Tool[]; problem: null } | { tools: null; problem: ToolsProblem };

export const EXAMPLE_TOOLS = `[
  {
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "The weather in a city now.",
      "parameters": {
        "type": "object",
        "properties": { "city": { "type": "string" } },
        "required": ["city"]
      }
    }
  }
]
`;

function checkTool(entry: unknown, number: number, names: Set<string>): Tool | ToolsProblem {
  const wrong = (text: ToolsProblem['text'], name = ''): ToolsProblem => ({ text, values: { number, name } });
  const definition = isObject(entry) && isObject(entry.function) ? entry.function : entry;
  if (!isObject(definition) || typeof definition.name !== 'string' || !definition.name) return wrong('toolNoName');
  const { type: _type, ...rest } = definition;
  const { name, parameters } = definition as { name: string; parameters?: unknown };
  if (!/^[\w.-]{1,64}$/.test(name)) return wrong('toolBadName', name);
  if (names.has(name)) return wrong('toolTwice', name);
  if (parameters !== undefined && !isObject(parameters)) return wrong('toolBadParameters', name);
  names.add(name);
  return { type: 'function', function: { ...rest, name } };
}

/** The tools of a pasted text; none of them when one is wrong. */
export function readTools(source: string): ToolsRead {
  if (!source.trim()) return { tools: [], problem: null };
  let value: unknown;
  try {
    value = JSON.parse(source);
  } catch (error) {
    return { tools: null, problem: { text: 'toolsNoJson', values: { message: (error as Error).message } } };
  }
  const entries = isObject(value) ? (Array.isArray(value.tools) ? value.tools : [value]) : value;
  if (!Array.isArray(entries)) return { tools: null, problem: { text: 'toolsNoList', values: {} } };
  const tools: Tool[] = [];
  const names = new Set<string>();
  for (const [index, entry] of entries.entries()) {
    const read = checkTool(entry, index + 1, names);
    if ('text' in read) return { tools: null, problem: read };
    tools.push(read);
  }
  return { tools, problem: null };
}

/** JSON on lines of its own; other text as it is. */
export function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Whether a call can be sent back: servers refuse arguments that are no object. */
export function isWhole(call: ToolCall): boolean {
  try {
    return !call.arguments.trim() || isObject(JSON.parse(call.arguments));
  } catch {
    return false;
  }
}

/** Markdown of a block of code, whatever is in it. */
export function fenced(text: string): string {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}${/^\s*[[{]/.test(text) ? 'json' : ''}\n${text}\n${fence}`;
}
