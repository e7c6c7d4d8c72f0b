import { describe, expect, it } from 'vitest';
import { MarkdownRenderer } from './markdown';
import { EXAMPLE_TOOLS, fenced, isWhole, pretty, readTools } from './tools';

const definition = { name: 'add', description: 'Adds.', parameters: { type: 'object', properties: {} } };
const tool = { type: 'function', function: definition };

describe('definitions', () => {
  it.each([
    ['a list', [tool]],
    ['one tool', tool],
    ['the function alone', [definition]],
    ['the form of the Responses API', [{ type: 'function', ...definition }]],
    ['a request’s field', { tools: [tool] }],
  ])('are read from %s', (_name, value) => {
    expect(readTools(JSON.stringify(value))).toEqual({ tools: [tool], problem: null });
  });

  it('may be missing', () => expect(readTools(' \n')).toEqual({ tools: [], problem: null }));

  it('have an example', () => expect(readTools(EXAMPLE_TOOLS).tools).toHaveLength(1));

  it.each([
    ['3', 'toolsNoList', {}],
    ['[{"type": "function"}]', 'toolNoName', { number: 1, name: '' }],
    ['[{"name": "a"}, null]', 'toolNoName', { number: 2, name: '' }],
    ['[{"name": "my tool"}]', 'toolBadName', { number: 1, name: 'my tool' }],
    ['[{"name": "a"}, {"name": "a"}]', 'toolTwice', { number: 2, name: 'a' }],
    ['[{"name": "a", "parameters": []}]', 'toolBadParameters', { number: 1, name: 'a' }],
  ])('%s: says what is wrong', (source, text, values) => {
    expect(readTools(source)).toEqual({ tools: null, problem: { text, values } });
  });

  it('tell where they are no JSON', () => {
    const { problem } = readTools('[{"name": }]');
    expect(problem?.text).toBe('toolsNoJson');
    expect(problem?.values.message).toContain('Unexpected token');
  });
});

describe('calls', () => {
  it.each([
    ['{"a": 1}', true],
    ['', true],
    ['{"a": ', false],
    ['[1]', false],
    ['null', false],
  ])('with the arguments %j can be sent back: %s', (text, whole) => {
    expect(isWhole({ id: 'c', name: 'f', arguments: text })).toBe(whole);
  });

  it('are shown on several lines', () => {
    expect(pretty('{"a":[1,2]}')).toBe('{\n  "a": [\n    1,\n    2\n  ]\n}');
    expect(pretty('{"a": ')).toBe('{"a": ');
  });

  it('stay one block of code whatever is in them', () => {
    const text = '{"code": "```\\n# no heading"}\n```\n# no heading';
    const shown = document.createElement('div');
    shown.innerHTML = new MarkdownRenderer({ copy: 'Copy', code: 'Code', table: 'Table' }).html(fenced(text));
    expect(shown.querySelector('code')?.textContent).toBe(text);
    expect(shown.querySelector('h3')).toBeNull();
  });
});
