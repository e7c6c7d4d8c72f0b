/** Calls of tools: what the model asks for, the fields for what they gave back, and what was given. */
import { useRef, useState } from 'preact/hooks';
import type { Message } from '../lib/conversation';
import { fenced, isWhole, pretty, type ToolCall, type ToolResult } from '../lib/tools';
import { giveResults } from '../state/runs';
import { t } from '../state/settings';
import { grow, isComposing } from './dom';
import { DeleteButton, EditButton, Versions, type MessageProps } from './message_parts';
import { Rendered } from './rendered';

function Folded({ title, name, text, live }: { title: string; name: string; text: string; live?: boolean }) {
  return (
    <details class="call">
      <summary>
        {live && <span class="pulse" aria-hidden="true" />}
        {title} <code>{name}</code> <span class="preview">{text.replace(/\s+/g, ' ').slice(0, 200)}</span>
      </summary>
      <Rendered text={fenced(pretty(text))} />
    </details>
  );
}

/** The calls of a message; while it is written, the last one is unfinished. */
export function Calls({ calls, live }: { calls: ToolCall[]; live: boolean }) {
  return (
    <div class="calls">
      {calls.map((call, index) => {
        const open = live && index === calls.length - 1;
        return (
          <div key={index}>
            <Folded title={t(open ? 'calling' : 'call')} name={call.name} text={call.arguments} live={open} />
            {!live && !isWhole(call) && <p class="failed">{t('callBroken')}</p>}
          </div>
        );
      })}
    </div>
  );
}

interface ResultsFormProps {
  /** The message with the calls. */
  messageId: string;
  /** The calls, or results given before. */
  results: ToolResult[];
  onDone?: () => void;
}

export function ResultsForm({ messageId, results, onDone }: ResultsFormProps) {
  const form = useRef<HTMLFormElement>(null);
  const submit = (): void => {
    const fields = form.current!.querySelectorAll('textarea');
    onDone?.();
    giveResults(messageId, results.map((result, index) => ({ ...result, content: fields[index]!.value })));
  };
  return (
    <form
      ref={form}
      class="edit results"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
      onKeyDown={(event) => {
        if (isComposing(event)) return;
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) submit();
        if (event.key === 'Escape' && onDone) {
          event.stopPropagation();
          onDone();
        }
      }}
    >
      <p class="hint">{t('resultsHint')}</p>
      {results.map(({ id, name, content }, index) => (
        <label class="field" key={`${index} ${id}`}>
          <span>
            {t('resultOf')} <code>{name}</code>
          </span>
          <textarea rows={2} defaultValue={content} onInput={(event) => grow(event.currentTarget)} />
        </label>
      ))}
      <div class="buttons">
        {onDone && (
          <button type="button" onClick={onDone}>
            {t('cancel')}
          </button>
        )}
        <button type="submit" class="primary">
          {t('sendResults')}
        </button>
      </div>
    </form>
  );
}

export function ToolMessage({ message, versions, disabled }: MessageProps) {
  const [editing, setEditing] = useState(false);
  const results: ToolResult[] = message.results ?? [];
  return (
    <article class="message tool">
      <h2 class="offscreen">{t('results')}</h2>
      {editing ? (
        <ResultsForm messageId={message.parent} results={results} onDone={() => setEditing(false)} />
      ) : (
        <>
          <div class="calls">
            {results.map(({ name, content }, index) => (
              <Folded key={index} title={t('resultOf')} name={name} text={content} />
            ))}
          </div>
          <div class="actions">
            <Versions message={message} versions={versions} disabled={disabled} />
            <EditButton disabled={disabled} onClick={() => setEditing(true)} />
            <DeleteButton id={message.id} disabled={disabled} />
          </div>
        </>
      )}
    </article>
  );
}

/** Empty results for the calls of a message, to be filled in. */
export const emptyResults = ({ calls = [] }: Message): ToolResult[] =>
  calls.map(({ id, name }) => ({ id, name, content: '' }));
