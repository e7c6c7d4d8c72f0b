/** What messages of all roles have below them: versions, copy, edit, delete. */
import { useState } from 'preact/hooks';
import type { Message } from '../lib/conversation';
import { deleteMessage, showBranch } from '../state/runs';
import { t } from '../state/settings';
import { copyText } from './dom';
import { Icon } from './icons';

const COPIED_MS = 1500;

export interface MessageProps {
  message: Message;
  /** Ids of all versions of it, itself among them. */
  versions: string[];
  /** While a reply of the conversation is written. */
  disabled: boolean;
  /** Whether nothing follows it. */
  last: boolean;
}

export function EditButton({ disabled, onClick }: { disabled: boolean; onClick: () => void }) {
  return (
    <button type="button" class="small" disabled={disabled} onClick={onClick}>
      <Icon name="pencil" /> {t('edit')}
    </button>
  );
}

export function Versions({ message, versions, disabled }: Omit<MessageProps, 'last'>) {
  if (versions.length < 2) return null;
  const index = versions.indexOf(message.id);
  const count = versions.length;
  const go = (step: number) => () => showBranch(versions[index + step]!);
  return (
    <span class="versions">
      <button
        type="button"
        class="icon-button"
        aria-label={t('previousBranch')}
        disabled={disabled || index === 0}
        onClick={go(-1)}
      >
        <Icon name="left" />
      </button>
      <span>
        <span aria-hidden="true">
          {index + 1}/{count}
        </span>
        <span class="offscreen">{t('branchOf', { index: index + 1, count })}</span>
      </span>
      <button
        type="button"
        class="icon-button"
        aria-label={t('nextBranch')}
        disabled={disabled || index === count - 1}
        onClick={go(1)}
      >
        <Icon name="right" />
      </button>
    </span>
  );
}

export function CopyButton({ text }: { text: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async (): Promise<void> => {
    if (!(await copyText(text))) return;
    setCopied(true);
    setTimeout(() => setCopied(false), COPIED_MS);
  };
  return (
    <button type="button" class="small" onClick={() => void copy()}>
      <Icon name="copy" /> <span aria-live="polite">{t(copied ? 'copied' : 'copy')}</span>
    </button>
  );
}

export function DeleteButton({ id, disabled }: { id: string; disabled: boolean }) {
  return (
    <button type="button" class="small" disabled={disabled} onClick={() => void deleteMessage(id)}>
      <Icon name="trash" /> {t('delete')}
    </button>
  );
}
