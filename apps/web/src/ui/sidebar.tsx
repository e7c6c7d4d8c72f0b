/** Conversations: new, search, list with rename and delete; below them the ways to settings and placement. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Summary } from '../lib/conversation';
import { current, deleteChat, found, open, query, renameChat, search, startNew, summaries } from '../state/chats';
import { runs } from '../state/draft';
import { stop } from '../state/runs';
import { t } from '../state/settings';
import { settingsOpen, sidebarOpen, view } from '../state/view';
import { focusInput, isComposing, rescueFocus } from './dom';
import { Icon } from './icons';

/** On a phone the list covers the chat; choosing closes it. */
function leave(): void {
  view.value = 'chat';
  sidebarOpen.value = false;
  focusInput();
}

function RenameField({ summary, onDone }: { summary: Summary; onDone: () => void }) {
  const field = useRef<HTMLInputElement>(null);
  const finished = useRef(false);
  useLayoutEffect(() => {
    field.current!.focus();
    field.current!.select();
  }, []);
  const finish = (keep: boolean): void => {
    if (finished.current) return;
    finished.current = true;
    if (keep) void renameChat(summary.id, field.current!.value);
    onDone();
  };
  return (
    <input
      ref={field}
      class="rename"
      defaultValue={summary.title}
      aria-label={t('renameNamed', { title: summary.title || t('untitled') })}
      onBlur={() => finish(true)}
      onKeyDown={(event) => {
        if (isComposing(event)) return;
        if (event.key === 'Enter') finish(true);
        if (event.key === 'Escape') {
          event.stopPropagation();
          finish(false);
        }
      }}
    />
  );
}

function Entry({ summary }: { summary: Summary }) {
  const [renaming, setRenaming] = useState(false);
  const renameButton = useRef<HTMLButtonElement>(null);
  const title = summary.title || t('untitled');
  const isCurrent = current.value.id === summary.id;
  if (renaming) {
    return (
      <li class="entry">
        <RenameField
          summary={summary}
          onDone={() => {
            setRenaming(false);
            requestAnimationFrame(() => renameButton.current?.focus());
          }}
        />
      </li>
    );
  }
  return (
    <li class={isCurrent ? 'entry current' : 'entry'}>
      <button
        type="button"
        class="title"
        aria-current={isCurrent ? 'page' : undefined}
        onClick={() => void open(summary.id).then(leave)}
      >
        {summary.id in runs.value && <span class="pulse" aria-hidden="true" />}
        {title}
      </button>
      <span class="entry-actions">
        <button
          ref={renameButton}
          type="button"
          class="icon-button"
          aria-label={t('renameNamed', { title })}
          title={t('rename')}
          onClick={() => setRenaming(true)}
        >
          <Icon name="pencil" />
        </button>
        <button
          type="button"
          class="icon-button"
          aria-label={t('deleteNamed', { title })}
          title={t('delete')}
          onClick={() => void deleteChat(summary, stop).then(rescueFocus)}
        >
          <Icon name="trash" />
        </button>
      </span>
    </li>
  );
}

function List() {
  const shown = found.value ? summaries.value.filter(({ id }) => found.value!.has(id)) : summaries.value;
  if (!shown.length) return <p class="hint">{t(found.value ? 'searchNothing' : 'noConversations')}</p>;
  return (
    <ul>
      {shown.map((summary) => (
        <Entry key={summary.id} summary={summary} />
      ))}
    </ul>
  );
}

export function newChat(): void {
  startNew();
  void search('');
  leave();
}

export function Sidebar() {
  return (
    <nav id="sidebar" class={sidebarOpen.value ? 'sidebar open' : 'sidebar'} aria-label={t('conversations')}>
      <div class="sidebar-top">
        <button type="button" class="new" aria-keyshortcuts="Control+Shift+O" onClick={newChat}>
          <Icon name="plus" /> {t('newChat')}
        </button>
        <button
          type="button"
          class="icon-button phone-only"
          aria-label={t('closeSidebar')}
          onClick={() => (sidebarOpen.value = false)}
        >
          <Icon name="close" />
        </button>
      </div>
      <div class="search">
        <Icon name="search" />
        <input
          id="search"
          type="search"
          placeholder={t('search')}
          aria-label={t('search')}
          aria-keyshortcuts="Control+K"
          value={query.value}
          onInput={(event) => void search(event.currentTarget.value)}
        />
      </div>
      <div class="list">
        <List />
      </div>
      <div class="sidebar-bottom">
        <button
          type="button"
          aria-pressed={view.value === 'placement'}
          onClick={() => {
            view.value = view.value === 'placement' ? 'chat' : 'placement';
            sidebarOpen.value = false;
          }}
        >
          <Icon name="tree" /> {t('placement')}
        </button>
        <button type="button" onClick={() => (settingsOpen.value = true)}>
          <Icon name="gear" /> {t('settings')}
        </button>
      </div>
    </nav>
  );
}
