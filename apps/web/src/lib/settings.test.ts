import { describe, expect, it } from 'vitest';
import { en } from '../i18n/en';
import { zh } from '../i18n/zh';
import { DEFAULTS, parseSettings } from './settings';

describe('settings', () => {
  it('are the defaults when nothing sensible is kept', () => {
    for (const source of [null, '', 'null', '[]', '{"theme":5,"sampling":{"top_k":"x","temperature":null}}']) {
      expect(parseSettings(source)).toEqual(DEFAULTS);
    }
  });

  it('keep what is valid, within limits', () => {
    const source = '{"theme":"dark","thinking":"off","sampling":{"temperature":9,"top_k":3.6,"seed":7,"evil":1}}';
    expect(parseSettings(source)).toEqual({
      ...DEFAULTS, theme: 'dark', thinking: 'off', sampling: { temperature: 2, top_k: 4, seed: 7 },
    });
  });
});

describe('texts', () => {
  const places = (text: string): string[] => (text.match(/\{\w+\}/g) ?? []).sort();

  it('have the same places for values in both languages', () => {
    for (const key of Object.keys(en) as (keyof typeof en)[]) expect(places(zh[key]), key).toEqual(places(en[key]));
  });
});
