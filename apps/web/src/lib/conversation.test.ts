import { describe, expect, it } from 'vitest';
import {
  addMessage, changeMessage, childrenOf, matches, newConversation, newMessage, pathTo, pickMessage, removeMessage,
  ROOT, titleFrom, visiblePath, type Conversation,
} from './conversation';

const texts = (conversation: Conversation): string[] => visiblePath(conversation).map((m) => m.content);

/** question → answer → follow-up, and a second answer without a follow-up. */
function sample() {
  const question = newMessage('user', ROOT, 'question');
  const first = newMessage('assistant', question.id, 'first');
  const followUp = newMessage('user', first.id, 'follow-up');
  const second = newMessage('assistant', question.id, 'second');
  const conversation = [question, first, followUp, second].reduce(addMessage, newConversation());
  return { conversation, question, first, followUp, second };
}

describe('branches', () => {
  it('shows what was added last', () => {
    expect(texts(sample().conversation)).toEqual(['question', 'second']);
  });

  it('comes back to a branch with all below it', () => {
    const { conversation, first, second } = sample();
    const back = pickMessage(conversation, first.id);
    expect(texts(back)).toEqual(['question', 'first', 'follow-up']);
    expect(texts(pickMessage(back, second.id))).toEqual(['question', 'second']);
  });

  it('lists versions oldest first', () => {
    const { conversation, question, first, second } = sample();
    expect(childrenOf(conversation).get(question.id)).toEqual([first.id, second.id]);
  });

  it('lets the first message have versions', () => {
    const { conversation } = sample();
    const edited = addMessage(conversation, newMessage('user', ROOT, 'another question'));
    expect(texts(edited)).toEqual(['another question']);
    expect(childrenOf(edited).get(ROOT)).toHaveLength(2);
  });

  it('gives the path to a message that is not on show', () => {
    const { conversation, followUp } = sample();
    expect(pathTo(conversation, followUp.id).map((m) => m.content)).toEqual(['question', 'first', 'follow-up']);
  });

  it('removes a message with all below it and shows another version', () => {
    const { conversation, first, second } = sample();
    expect(texts(removeMessage(conversation, second.id))).toEqual(['question', 'first', 'follow-up']);
    const without = removeMessage(conversation, first.id);
    expect(Object.keys(without.messages)).toHaveLength(2);
    expect(texts(without)).toEqual(['question', 'second']);
  });

  it('never changes what it was given', () => {
    const { conversation, first } = sample();
    const before = JSON.stringify(conversation);
    changeMessage(conversation, first.id, { content: 'x' });
    pickMessage(conversation, first.id);
    removeMessage(conversation, first.id);
    addMessage(conversation, newMessage('user', first.id, 'x'));
    expect(JSON.stringify(conversation)).toBe(before);
  });
});

describe('titles', () => {
  it.each([
    ['## Hello *world*', 'Hello world'],
    ['\n\n> quoted `code`', 'quoted code'],
    ['---\n1. first point', 'first point'],
    ['你好，世界', '你好，世界'],
    ['???', ''],
  ])('of %j', (text, title) => expect(titleFrom(text)).toBe(title));

  it('are cut between words and never inside a letter', () => {
    expect(titleFrom('word '.repeat(40))).toMatch(/^(word ){11}word…$/);
    expect(titleFrom('a' + '😀'.repeat(100))).toBe('a' + '😀'.repeat(59) + '…');
  });

  it('come from the first message only', () => {
    const { conversation } = sample();
    expect(conversation.title).toBe('question');
    expect(addMessage(conversation, newMessage('user', ROOT, 'other')).title).toBe('question');
  });
});

describe('matches', () => {
  it('wants all words, anywhere', () => {
    const { conversation } = sample();
    expect(matches(conversation, 'SECOND quest')).toBe(true);
    expect(matches(conversation, 'second third')).toBe(false);
  });
});
