/** Where messages are written. What is typed stays with its conversation while another one is open. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { current } from '../state/chats';
import { canCall, isRunning, send, sentTools, stop, tools } from '../state/runs';
import { settings, t } from '../state/settings';
import { focusInput, grow, isComposing } from './dom';
import { Icon } from './icons';

const drafts = new Map<string, string>();

function ToolsHint() {
  if (settings.value.toolUse === 'none' || !canCall()) return null;
  if (tools.value.problem) return <p class="hint failed">{t('toolsNotSent')}</p>;
  const names = sentTools.value.map((tool) => tool.function.name).join(', ');
  return names ? <p class="hint">{t('toolsSent', { names })}</p> : null;
}

export function Composer() {
  const { id } = current.value;
  const area = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState('');
  const running = isRunning();
  useEffect(() => setText(drafts.get(id) ?? ''), [id]);
  useEffect(() => grow(area.current), [text]);
  const change = (value: string): void => {
    drafts.set(id, value);
    setText(value);
  };
  const submit = (): void => {
    if (running || !text.trim()) return;
    send(text);
    change('');
    focusInput();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <div class="composer-box">
        <textarea
          ref={area}
          id="input"
          rows={1}
          value={text}
          placeholder={t('messagePlaceholder')}
          aria-label={t('message')}
          aria-describedby="input-hint"
          onInput={(event) => change(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== 'Enter' || event.shiftKey || isComposing(event)) return;
            event.preventDefault();
            submit();
          }}
        />
        {running ? (
          <button type="button" class="round" aria-label={t('stop')} aria-keyshortcuts="Escape" onClick={() => stop(id)}>
            <Icon name="stop" />
          </button>
        ) : (
          <button type="submit" class="round" aria-label={t('send')} disabled={!text.trim()}>
            <Icon name="send" />
          </button>
        )}
      </div>
      <p id="input-hint" class="hint">
        {t('inputHint')}
      </p>
      <ToolsHint />
    </form>
  );
}
