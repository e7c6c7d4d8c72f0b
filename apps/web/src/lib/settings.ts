/** What the user set, in localStorage. A sampling value that is missing is the server's default. */
import type { SamplingSettings } from './api';

export type Theme = 'system' | 'light' | 'dark';
export type LanguageChoice = 'system' | 'en' | 'zh';
export type Thinking = 'default' | 'on' | 'off';
/** none: no tools are sent; required: the model must call one before it answers. */
export type ToolUse = 'none' | 'auto' | 'required';

export interface Settings {
  theme: Theme;
  language: LanguageChoice;
  systemPrompt: string;
  thinking: Thinking;
  /** As they were pasted, maybe wrong. */
  tools: string;
  toolUse: ToolUse;
  sampling: SamplingSettings;
  model: string | null;
}

export interface SamplingField {
  key: keyof SamplingSettings;
  min: number;
  max: number;
  step: number;
}

export const SAMPLING_FIELDS: readonly SamplingField[] = [
  { key: 'temperature', min: 0, max: 2, step: 0.05 },
  { key: 'top_k', min: 0, max: 1000, step: 1 },
  { key: 'top_p', min: 0, max: 1, step: 0.01 },
  { key: 'min_p', min: 0, max: 1, step: 0.01 },
  { key: 'repeat_penalty', min: 0.5, max: 2, step: 0.01 },
  { key: 'max_tokens', min: 1, max: 1_000_000, step: 1 },
  { key: 'seed', min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
];

export const DEFAULTS: Settings = {
  theme: 'system',
  language: 'system',
  systemPrompt: '',
  thinking: 'default',
  tools: '',
  toolUse: 'auto',
  sampling: {},
  model: null,
};

const KEY = 'kt.settings';

function oneOf<T extends string>(value: unknown, choices: readonly T[], otherwise: T): T {
  return choices.includes(value as T) ? (value as T) : otherwise;
}

/** Whole steps where the field counts, within its limits; undefined for what is no number. */
export function readSampling({ key, min, max, step }: SamplingField, value: unknown): [typeof key, number | undefined] {
  if (typeof value !== 'number' || !Number.isFinite(value)) return [key, undefined];
  const limited = Math.min(max, Math.max(min, value));
  return [key, step >= 1 ? Math.round(limited) : limited];
}

export function parseSettings(source: string | null): Settings {
  let saved: Partial<Record<keyof Settings, unknown>> = {};
  try {
    saved = JSON.parse(source ?? '{}') ?? {};
  } catch {
    // Whatever it was, the defaults serve.
  }
  const sampling = (saved.sampling ?? {}) as Record<string, unknown>;
  const values = SAMPLING_FIELDS.map((field) => readSampling(field, sampling[field.key]));
  return {
    theme: oneOf(saved.theme, ['system', 'light', 'dark'], DEFAULTS.theme),
    language: oneOf(saved.language, ['system', 'en', 'zh'], DEFAULTS.language),
    thinking: oneOf(saved.thinking, ['default', 'on', 'off'], DEFAULTS.thinking),
    toolUse: oneOf(saved.toolUse, ['none', 'auto', 'required'], DEFAULTS.toolUse),
    systemPrompt: typeof saved.systemPrompt === 'string' ? saved.systemPrompt : '',
    tools: typeof saved.tools === 'string' ? saved.tools : '',
    sampling: Object.fromEntries(values.filter(([, value]) => value !== undefined)),
    model: typeof saved.model === 'string' ? saved.model : null,
  };
}

export const loadSettings = (): Settings => parseSettings(localStorage.getItem(KEY));
export const saveSettings = (settings: Settings): void => localStorage.setItem(KEY, JSON.stringify(settings));
