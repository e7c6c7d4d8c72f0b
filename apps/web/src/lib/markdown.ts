/**
 * Markdown of a reply → clean HTML.
 *
 *   text ─marked→ blocks ─render→ HTML ─DOMPurify→ HTML that may be put into the page
 *
 * A model's text is untrusted. HTML in it is shown as text, but for a few tags without attributes; pictures from
 * elsewhere become links, because the page loads nothing from other hosts. Rendered blocks are kept, so that a
 * growing reply renders only its last block anew.
 */
import DOMPurify from 'dompurify';
import { Marked, Renderer, type Token, type Tokens } from 'marked';
import { highlight } from './highlight';
import { mathExtension } from './math';

/** Words in the interface of code blocks; the page sets them to the user's language. */
export interface MarkdownLabels {
  copy: string;
  code: string;
  table: string;
}

const TAGS = [
  'a', 'b', 'blockquote', 'br', 'button', 'code', 'del', 'div', 'em', 'h3', 'h4', 'h5', 'h6', 'hr', 'i', 'img',
  'kbd', 'li', 'mark', 'ol', 'p', 'pre', 's', 'small', 'span', 'strong', 'sub', 'sup', 'table', 'tbody', 'td',
  'th', 'thead', 'tr', 'u', 'ul',
];
const MATH_TAGS = [
  'math', 'menclose', 'merror', 'mfrac', 'mi', 'mmultiscripts', 'mn', 'mo', 'mover', 'mpadded', 'mphantom',
  'mprescripts', 'mroot', 'mrow', 'ms', 'mspace', 'msqrt', 'mstyle', 'msub', 'msubsup', 'msup', 'mtable', 'mtd',
  'mtext', 'mtr', 'munder', 'munderover',
];
const ADDRESSES = ['href', 'src'];
const ATTRIBUTES = [
  'alt', 'align', 'aria-label', 'class', 'rel', 'role', 'start', 'tabindex', 'target', 'title', 'type',
];
const MATH_ATTRIBUTES = [
  'accent', 'accentunder', 'columnalign', 'columnlines', 'columnspacing', 'depth', 'display', 'displaystyle',
  'fence', 'height', 'largeop', 'linethickness', 'lspace', 'mathbackground', 'mathcolor', 'mathsize',
  'mathvariant', 'maxsize', 'minsize', 'movablelimits', 'notation', 'rowlines', 'rowspacing', 'rspace',
  'scriptlevel', 'separator', 'stretchy', 'symmetric', 'voffset', 'width', 'xmlns',
];
const HARMLESS_TAG = /<\/?(?:b|br|del|em|i|kbd|mark|s|small|strong|sub|sup|u)\s*\/?>/gi;
const WEB_LINK = /^(?:https?:|mailto:)/i;
const DATA_IMAGE = /^data:image\/(?:png|jpeg|gif|webp);base64,[a-z0-9+/=\s]+$/i;
const MAX_KEPT = 2000;

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/** Text in which only harmless tags stay tags. */
function escapeAllBut(text: string): string {
  let html = '';
  let from = 0;
  for (const match of text.matchAll(HARMLESS_TAG)) {
    html += escapeHtml(text.slice(from, match.index)) + match[0].toLowerCase();
    from = match.index + match[0].length;
  }
  return html + escapeHtml(text.slice(from));
}

function codeBlock({ text, lang }: Tokens.Code, labels: MarkdownLabels): string {
  const language = (lang ?? '').trim().split(/[\s,{]/)[0]!.toLowerCase();
  const body = highlight(text, language) ?? escapeHtml(text);
  const name = escapeHtml(language);
  const label = escapeHtml(language ? `${labels.code}, ${language}` : labels.code);
  return (
    `<div class="code"><div class="code-head"><span>${name}</span>` +
    `<button type="button" class="copy-code">${escapeHtml(labels.copy)}</button></div>` +
    `<pre tabindex="0" role="group" aria-label="${label}"><code>${body}</code></pre></div>\n`
  );
}

function link(href: string, inner: string, title: string | null | undefined): string {
  if (!WEB_LINK.test(href)) return inner;
  const hint = title ? ` title="${escapeHtml(title)}"` : '';
  return `<a href="${escapeHtml(href)}"${hint} target="_blank" rel="noopener noreferrer nofollow">${inner}</a>`;
}

function makeMarked(labels: MarkdownLabels): Marked {
  const marked = new Marked({ gfm: true, breaks: false });
  marked.use(mathExtension, {
    renderer: {
      code: (token) => codeBlock(token, labels),
      html: ({ text }) => (text.startsWith('<!--') ? '' : escapeAllBut(text)),
      heading({ tokens, depth }) {
        // The page's own headings are h1 and h2.
        const level = Math.min(depth + 2, 6);
        return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
      },
      link({ href, title, tokens }) {
        return link(href, this.parser.parseInline(tokens), title);
      },
      image({ href, title, text }) {
        if (DATA_IMAGE.test(href)) return `<img src="${escapeHtml(href)}" alt="${escapeHtml(text)}">`;
        return link(href, escapeHtml(text || href), title);
      },
      checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
      table(token) {
        const table = Renderer.prototype.table.call(this, token);
        return `<div class="table" tabindex="0" role="group" aria-label="${escapeHtml(labels.table)}">${table}</div>`;
      },
    },
  });
  return marked;
}

/** DOMPurify as the second lock: nothing that the renderer did not mean to write gets through. */
export function sanitize(html: string): string {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: [...TAGS, ...MATH_TAGS],
    ALLOWED_ATTR: [...ADDRESSES, ...ATTRIBUTES, ...MATH_ATTRIBUTES],
    ALLOWED_URI_REGEXP: WEB_LINK,
    ADD_URI_SAFE_ATTR: [...ATTRIBUTES, ...MATH_ATTRIBUTES],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  });
}

export class MarkdownRenderer {
  private readonly marked: Marked;
  private readonly kept = new Map<string, string>();

  constructor(labels: MarkdownLabels) {
    this.marked = makeMarked(labels);
  }

  /** Clean HTML of each top-level block. */
  blocks(text: string): string[] {
    const tokens = this.marked.lexer(text);
    // A definition of a link that comes late changes blocks before it.
    const links = Object.keys(tokens.links).join('\n');
    return tokens
      .filter((token) => token.type !== 'space' && token.type !== 'def')
      .map((token) => this.block(token, links));
  }

  html(text: string): string {
    return this.blocks(text).join('');
  }

  private block(token: Token, links: string): string {
    const key = `${token.type}\n${links}\n${token.raw}`;
    const known = this.kept.get(key);
    if (known !== undefined) return known;
    const html = sanitize(this.marked.parser([token]));
    if (this.kept.size >= MAX_KEPT) this.kept.clear();
    this.kept.set(key, html);
    return html;
  }
}
