/** Toasts, the yes-or-no question, the question for a key, the bar about the server's state. */
import { useState } from 'preact/hooks';
import { dismiss, question, spoken, toasts } from '../state/notices';
import { answerKey, keyDialog, server } from '../state/server';
import { t } from '../state/settings';
import { Dialog } from './dialog';
import { Icon } from './icons';

export function Toasts() {
  return (
    <div class="toasts" role="region" aria-label={t('notices')} aria-live="assertive">
      {toasts.value.map(({ id, text, kind, retry }) => (
        <div key={id} class={`toast ${kind}`}>
          <span>{text}</span>
          {retry && (
            <button
              type="button"
              onClick={() => {
                dismiss(id);
                retry();
              }}
            >
              {t('retry')}
            </button>
          )}
          <button type="button" class="icon-button" aria-label={t('dismiss')} onClick={() => dismiss(id)}>
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  );
}

export function Spoken() {
  return (
    <div class="offscreen" role="status">
      {spoken.value}
    </div>
  );
}

export function QuestionDialog() {
  const asked = question.value;
  if (!asked) return null;
  return (
    <Dialog title={asked.title} onClose={() => asked.answer(false)}>
      <p>{asked.detail}</p>
      <div class="buttons">
        <button type="button" onClick={() => asked.answer(false)}>
          {t('cancel')}
        </button>
        <button type="button" class="danger" onClick={() => asked.answer(true)}>
          {asked.action}
        </button>
      </div>
    </Dialog>
  );
}

export function KeyDialog() {
  const [key, setKey] = useState('');
  const state = keyDialog.value;
  if (!state) return null;
  return (
    <Dialog title={t('keyTitle')} onClose={() => answerKey(null)}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (key.trim()) answerKey(key);
          setKey('');
        }}
      >
        {state === 'wrong' && <p class="failed">{t('keyWrong')}</p>}
        <label class="field">
          <span>{t('keyWanted')}</span>
          <input
            type="password"
            autocomplete="off"
            value={key}
            aria-label={t('keyTitle')}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        </label>
        <div class="buttons">
          <button type="button" onClick={() => answerKey(null)}>
            {t('cancel')}
          </button>
          <button type="submit" class="primary">
            {t('save')}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

export function ServerBar() {
  const state = server.value;
  if (state.kind === 'unreachable') {
    return (
      <div class="server-bar failed" role="status">
        {t('noServer')}
      </div>
    );
  }
  if (state.kind !== 'loading') return null;
  const percent = state.progress === null ? null : Math.floor(state.progress * 100);
  return (
    <div class="server-bar" role="status">
      <label>
        <span>{t('loadingModel')}</span> <progress max={100} value={percent ?? undefined} />
      </label>
      {percent !== null && <span>{percent} %</span>}
    </div>
  );
}
