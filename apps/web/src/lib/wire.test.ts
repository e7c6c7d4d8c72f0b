import { expect, it } from 'vitest';
import { chunkEvents } from './api';
import { newMessage, ROOT, type Message } from './conversation';
import { wireMessages } from './wire';

const question = newMessage('user', ROOT, 'Sum?');
const calls = [
  { id: 'c1', name: 'add', arguments: '{"a":1}' },
  { id: 'c2', name: 'now', arguments: '' },
];
const asking: Message = { ...newMessage('assistant', question.id), reasoning: 'Hm.', finish: 'tool_calls', calls };
const given: Message = {
  ...newMessage('tool', asking.id),
  results: [{ id: 'c1', name: 'add', content: '3' }, { id: 'c2', name: 'now', content: 'noon' }],
};

it('sends the calls with their results, one message for each', () => {
  expect(wireMessages([question, asking, given], ' Be brief. ')).toEqual([
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'Sum?' },
    {
      role: 'assistant', content: '', reasoning_content: 'Hm.',
      tool_calls: [
        { id: 'c1', type: 'function', function: { name: 'add', arguments: '{"a":1}' } },
        { id: 'c2', type: 'function', function: { name: 'now', arguments: '' } },
      ],
    },
    { role: 'tool', tool_call_id: 'c1', content: '3' },
    { role: 'tool', tool_call_id: 'c2', content: 'noon' },
  ]);
});

it('leaves out calls that got no results', () => {
  const next = newMessage('user', asking.id, 'Never mind.');
  expect(wireMessages([question, asking, next], '')).toEqual([
    { role: 'user', content: 'Sum?' },
    { role: 'assistant', content: '', reasoning_content: 'Hm.' },
    { role: 'user', content: 'Never mind.' },
  ]);
});

it('reads calls out of chunks', () => {
  const delta = {
    tool_calls: [
      { index: 0, id: 'c1', type: 'function', function: { name: 'add', arguments: '' } },
      { index: 1, function: { arguments: '{"a"' } },
    ],
  };
  expect(chunkEvents(JSON.stringify({ choices: [{ delta, finish_reason: 'tool_calls' }] }))).toEqual([
    { kind: 'call', index: 0, id: 'c1', name: 'add', text: '' },
    { kind: 'call', index: 1, id: undefined, name: undefined, text: '{"a"' },
    { kind: 'finish', reason: 'tool_calls' },
  ]);
});
