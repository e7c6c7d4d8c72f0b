/** What the page tells the user outside of messages: toasts, questions, words for screen readers. */
import { signal } from '@preact/signals';

export interface Toast {
  id: number;
  text: string;
  kind: 'error' | 'info';
  retry?: () => void;
}

export interface Question {
  title: string;
  detail: string;
  action: string;
  answer: (yes: boolean) => void;
}

const INFO_MS = 6000;

export const toasts = signal<Toast[]>([]);
export const question = signal<Question | null>(null);
/** Read out by screen readers. */
export const spoken = signal('');

let lastToast = 0;

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

/** Errors stay until they are dismissed: they may ask for something. */
export function showError(text: string, retry?: () => void): void {
  const others = toasts.value.filter((toast) => toast.text !== text);
  toasts.value = [...others.slice(-2), { id: ++lastToast, text, kind: 'error', retry }];
}

export function showInfo(text: string): void {
  const id = ++lastToast;
  toasts.value = [...toasts.value.slice(-2), { id, text, kind: 'info' }];
  setTimeout(() => dismiss(id), INFO_MS);
}

/** Resolves with the user's answer. */
export function ask(title: string, detail: string, action: string): Promise<boolean> {
  return new Promise((resolve) => {
    question.value = {
      title,
      detail,
      action,
      answer: (yes) => {
        question.value = null;
        resolve(yes);
      },
    };
  });
}
