/** What is on the screen. */
import { signal } from '@preact/signals';

export const view = signal<'chat' | 'placement'>('chat');
export const settingsOpen = signal(false);
/** Phones only: on a desktop the list is always there. */
export const sidebarOpen = signal(false);

const phone = matchMedia('(max-width: 720px)');
phone.addEventListener('change', () => (sidebarOpen.value = false));
export const isPhone = (): boolean => phone.matches;
