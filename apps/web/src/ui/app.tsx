/** The frame of the page and the keys that work everywhere in it. */
import { useEffect, useLayoutEffect } from 'preact/hooks';
import { current } from '../state/chats';
import { isRunning, stop } from '../state/runs';
import { model, models } from '../state/server';
import { change, t } from '../state/settings';
import { isPhone, settingsOpen, sidebarOpen, view } from '../state/view';
import { Composer } from './composer';
import { focusInput, isComposing } from './dom';
import { Icon } from './icons';
import { KeyDialog, QuestionDialog, ServerBar, Spoken, Toasts } from './notices';
import { PlacementView } from './placement';
import { SettingsDialog } from './settings';
import { newChat, Sidebar } from './sidebar';
import { Thread } from './thread';

function focusSearch(): void {
  const focus = () => {
    const field = document.getElementById('search') as HTMLInputElement | null;
    field?.focus();
    field?.select();
  };
  if (!isPhone()) return focus(); // at once: the next key is the first letter
  sidebarOpen.value = true;
  requestAnimationFrame(focus);
}

function onKey(event: KeyboardEvent): void {
  // A modal window has its own keys.
  if (isComposing(event) || document.querySelector('dialog[open]')) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && !event.altKey) {
    if (key === 'k' && !event.shiftKey) {
      event.preventDefault();
      focusSearch();
    } else if (key === 'o' && event.shiftKey) {
      event.preventDefault();
      newChat();
    }
  } else if (key === 'escape') {
    if (sidebarOpen.value) {
      sidebarOpen.value = false;
      focusInput();
    } else if (isRunning()) {
      stop(current.value.id);
    }
  }
}

function ModelChoice() {
  const ids = models.value.map(({ id }) => id);
  if (model.value === null) return null;
  if (ids.length < 2) return <span class="model">{model.value}</span>;
  return (
    <select
      class="model"
      aria-label={t('model')}
      value={model.value}
      onChange={(event) => change({ model: event.currentTarget.value })}
    >
      {ids.map((id) => (
        <option key={id} value={id}>
          {id}
        </option>
      ))}
    </select>
  );
}

function Header() {
  const { title } = current.value;
  return (
    <header class="top">
      <button
        type="button"
        class="icon-button phone-only"
        aria-label={t('openSidebar')}
        aria-expanded={sidebarOpen.value}
        aria-controls="sidebar"
        onClick={() => (sidebarOpen.value = true)}
      >
        <Icon name="menu" />
      </button>
      <h1>{view.value === 'placement' ? t('placement') : title || t('newChat')}</h1>
      <ModelChoice />
      <button
        type="button"
        class="icon-button"
        aria-label={t('settings')}
        onClick={() => (settingsOpen.value = true)}
      >
        <Icon name="gear" />
      </button>
    </header>
  );
}

export function App() {
  const { title } = current.value;
  // With the first picture, not after it: keys pressed then would be lost.
  useLayoutEffect(() => {
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  }, []);
  useEffect(() => {
    if (document.activeElement === document.body) focusInput();
  }, []);
  useEffect(() => {
    document.title = title ? `${title} – ktransformers` : 'ktransformers';
  }, [title]);
  return (
    <>
      {view.value === 'chat' && (
        <a
          class="skip"
          href="#input"
          onClick={(event) => {
            event.preventDefault();
            focusInput();
          }}
        >
          {t('skipToInput')}
        </a>
      )}
      <Sidebar />
      {sidebarOpen.value && <div class="veil" onClick={() => (sidebarOpen.value = false)} />}
      <main inert={sidebarOpen.value}>
        <Header />
        <ServerBar />
        {view.value === 'placement' ? (
          <PlacementView />
        ) : (
          <>
            <Thread />
            <Composer />
          </>
        )}
      </main>
      <Toasts />
      <Spoken />
      <SettingsDialog />
      <QuestionDialog />
      <KeyDialog />
    </>
  );
}
