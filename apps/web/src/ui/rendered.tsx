/** Markdown on the page. Only blocks whose HTML changed touch the document, so that a selection above survives. */
import { computed } from '@preact/signals';
import { memo } from 'preact/compat';
import { MarkdownRenderer } from '../lib/markdown';
import { t } from '../state/settings';
import { copyText } from './dom';

const COPIED_MS = 1500;

const renderer = computed(
  () => new MarkdownRenderer({ copy: t('copy'), code: t('code'), table: t('table') }),
);

/** Clicks on the copy buttons inside rendered code blocks. */
export async function copyCode(event: Event): Promise<void> {
  const button = (event.target as Element).closest('button.copy-code');
  const code = button?.closest('.code')?.querySelector('code')?.textContent;
  if (!button || code == null || !(await copyText(code))) return;
  button.textContent = t('copied');
  setTimeout(() => (button.textContent = t('copy')), COPIED_MS);
}

const Block = memo(({ html }: { html: string }) => (
  <div class="block" dangerouslySetInnerHTML={{ __html: html }} />
));

/** Messages that did not change are not parsed again while another one grows. */
export const Rendered = memo(({ text }: { text: string }) => {
  return (
    <div class="markdown" onClick={(event) => void copyCode(event)}>
      {renderer.value.blocks(text).map((html, index) => (
        <Block key={index} html={html} />
      ))}
    </div>
  );
});
