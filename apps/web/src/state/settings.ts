/** Settings, language and theme as signals; the document follows them. */
import { computed, effect, signal } from '@preact/signals';
import { en, type Texts } from '../i18n/en';
import { zh } from '../i18n/zh';
import { loadSettings, saveSettings, type Settings } from '../lib/settings';

export const settings = signal<Settings>(loadSettings());

export function change(part: Partial<Settings>): void {
  settings.value = { ...settings.value, ...part };
  saveSettings(settings.value);
}

export const language = computed<'en' | 'zh'>(() => {
  const choice = settings.value.language;
  if (choice !== 'system') return choice;
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
});

const texts = computed<Texts>(() => (language.value === 'zh' ? zh : en));

/** A text in the user's language. */
export function t(key: keyof Texts, values: Record<string, string | number> = {}): string {
  return texts.value[key].replace(/\{(\w+)\}/g, (place, name: string) => String(values[name] ?? place));
}

effect(() => {
  document.documentElement.lang = language.value === 'zh' ? 'zh-CN' : 'en';
});

effect(() => {
  const { theme } = settings.value;
  if (theme === 'system') document.documentElement.removeAttribute('data-theme');
  else document.documentElement.dataset.theme = theme;
});
