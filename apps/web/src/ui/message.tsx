/** One message with its versions, actions, thoughts and numbers. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { fillsContext, isEmpty, type Message, type ReplyStats } from '../lib/conversation';
import { formatCount, formatRate } from '../lib/format';
import { runs, type Run } from '../state/draft';
import { awaitsResults, canContinue, continueReply, editAndSend, regenerate } from '../state/runs';
import { current } from '../state/chats';
import { models } from '../state/server';
import { t } from '../state/settings';
import { grow, isComposing } from './dom';
import { Icon } from './icons';
import { CopyButton, DeleteButton, EditButton, Versions, type MessageProps } from './message_parts';
import { Rendered } from './rendered';
import { Calls, emptyResults, ResultsForm } from './tools';

const TICK_MS = 250;

/** Renders again while something counts. */
function useTicks(active: boolean): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (!active) return;
    const timer = setInterval(() => setNow(Date.now()), TICK_MS);
    return () => clearInterval(timer);
  }, [active]);
  return active ? Math.max(now, Date.now()) : now;
}

const seconds = (ms: number): number => Math.max(0, Math.round(ms / 1000));
const atLeastOne = (ms: number): string => (ms < 1000 ? '<1' : String(seconds(ms)));

function EditForm({ message, onDone }: { message: Message; onDone: () => void }) {
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    grow(area.current);
    area.current?.focus();
  }, []);
  const submit = (): void => {
    onDone();
    editAndSend(message.id, area.current!.value);
  };
  return (
    <form
      class="edit"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <textarea
        ref={area}
        defaultValue={message.content}
        aria-label={t('editMessage')}
        onInput={(event) => grow(event.currentTarget)}
        onKeyDown={(event) => {
          if (isComposing(event)) return;
          if (event.key === 'Escape') {
            event.stopPropagation();
            onDone();
          } else if (event.key === 'Enter' && !event.shiftKey) {
            event.preventDefault();
            submit();
          }
        }}
      />
      <div class="buttons">
        <button type="button" onClick={onDone}>
          {t('cancel')}
        </button>
        <button type="submit" class="primary">
          {t('send')}
        </button>
      </div>
    </form>
  );
}

export function UserMessage({ message, versions, disabled }: MessageProps) {
  const [editing, setEditing] = useState(false);
  return (
    <article class="message user">
      <h2 class="offscreen">{t('you')}</h2>
      {editing ? (
        <EditForm message={message} onDone={() => setEditing(false)} />
      ) : (
        <>
          <div class="bubble">{message.content}</div>
          <div class="actions">
            <Versions message={message} versions={versions} disabled={disabled} />
            <CopyButton text={message.content} />
            <EditButton disabled={disabled} onClick={() => setEditing(true)} />
            <DeleteButton id={message.id} disabled={disabled} />
          </div>
        </>
      )}
    </article>
  );
}

function Thoughts({ message, run }: { message: Message; run: Run | undefined }) {
  const live = run?.phase === 'thinking';
  const now = useTicks(live);
  if (!message.reasoning) return null;
  const title = live
    ? t('thinking', { seconds: seconds(now - run.since) })
    : t('thoughtFor', { seconds: atLeastOne(message.thinkMs ?? 0) });
  return (
    <details class={live ? 'thoughts live' : 'thoughts'}>
      <summary>{title}</summary>
      <Rendered text={message.reasoning} />
    </details>
  );
}

function Waiting({ run }: { run: Run }) {
  const now = useTicks(true);
  if (run.phase === 'waiting') {
    return <p class="hint pulse-text">{t('readingPrompt', { seconds: seconds(now - run.since) })}</p>;
  }
  if (run.phase !== 'queued' && run.phase !== 'loading') return null;
  return <p class="hint">{t(run.phase, { seconds: seconds(run.since - now) })}</p>;
}

function LiveRate({ run }: { run: Run }) {
  const now = useTicks(true);
  const elapsed = (now - run.firstTokenAt) / 1000;
  if (run.chunks < 2 || elapsed < 0.5) return null;
  return (
    <span>
      {t('tokens', { count: `≈${formatCount(run.chunks)}` })} ·{' '}
      {t('tokensPerSecond', { rate: `≈${formatRate((run.chunks - 1) / elapsed)}` })}
    </span>
  );
}

function Numbers({ stats, name }: { stats: ReplyStats; name: string | undefined }) {
  const { newTokens, tokensPerSecond, promptTokens, cachedTokens, totalTokens, contextSize } = stats;
  const parts = [t('tokens', { count: formatCount(newTokens) })];
  if (tokensPerSecond) parts.unshift(t('tokensPerSecond', { rate: formatRate(tokensPerSecond) }));
  if (name !== undefined && models.value.length > 1) parts.unshift(name);
  parts.push(t('prompt', { count: formatCount(promptTokens), cached: formatCount(cachedTokens) }));
  const label = t('contextUsed', { used: formatCount(totalTokens), total: formatCount(contextSize ?? 0) });
  return (
    <span class="numbers">
      <span>{parts.join(' · ')}</span>
      {contextSize !== null && contextSize > 0 && (
        <span class="context" title={label}>
          {t('context')} {formatCount(totalTokens)}/{formatCount(contextSize)}{' '}
          <meter min={0} max={contextSize} high={contextSize * 0.85} value={totalTokens} aria-label={label} />
        </span>
      )}
    </span>
  );
}

function Ending({ message }: { message: Message }) {
  const { finish, error } = message;
  if (error) {
    return (
      <p class="failed">
        {isEmpty(message) ? error : `${t('interrupted')} ${error}`}{' '}
        <button type="button" onClick={() => regenerate(message.id)}>
          {t('retry')}
        </button>
      </p>
    );
  }
  if (finish === undefined) return <p class="hint">{t('interrupted')}</p>;
  if (finish === 'stop' || finish === 'tool_calls') return null;
  if (finish === 'stopped') return <p class="hint">{t('stoppedByUser')}</p>;
  if (finish === 'length') return <p class="hint">{t(fillsContext(message) ? 'contextFull' : 'stoppedAtLimit')}</p>;
  return <p class="hint">{t('stoppedOther', { reason: finish })}</p>;
}

export function AssistantMessage({ message, versions, disabled, last }: MessageProps) {
  const run = Object.values(runs.value).find(({ messageId }) => messageId === message.id);
  return (
    <article class="message assistant" aria-busy={run !== undefined}>
      <h2 class="offscreen">{t('assistant')}</h2>
      <Thoughts message={message} run={run} />
      <Rendered text={message.content} />
      {message.calls && <Calls calls={message.calls} live={run !== undefined} />}
      {last && awaitsResults(message) && <ResultsForm messageId={message.id} results={emptyResults(message)} />}
      {run ? <Waiting run={run} /> : <Ending message={message} />}
      <div class="actions">
        {!run && (
          <>
            <Versions message={message} versions={versions} disabled={disabled} />
            {last && canContinue(message) && (
              <button
                type="button"
                class="small"
                disabled={disabled}
                onClick={() => void continueReply(current.value.id, message.id)}
              >
                <Icon name="forward" /> {t('continue')}
              </button>
            )}
            {message.content && <CopyButton text={message.content} />}
            <button type="button" class="small" disabled={disabled} onClick={() => regenerate(message.id)}>
              <Icon name="redo" /> {t('regenerate')}
            </button>
            <DeleteButton id={message.id} disabled={disabled} />
          </>
        )}
        {run ? <LiveRate run={run} /> : message.stats && <Numbers stats={message.stats} name={message.model} />}
      </div>
    </article>
  );
}
