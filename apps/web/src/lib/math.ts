/**
 * Formulas in markdown: $…$ and \(…\) inside a line, $$…$$ and \[…\] alone or inside one.
 *
 * A dollar sign is more often money than mathematics, so $…$ is a formula only when, as in Pandoc, no space
 * follows the first sign, none precedes the second, and no digit or letter follows the second; and when it does
 * not read as an amount followed by words.
 */
import katex from 'katex';
import type { MarkedExtension, Tokens } from 'marked';
import { plainLetters } from './math_letters';

const DOLLAR = /^\$(?![\s$])((?:\\[^\n]|[^\\$\n`])+?)\$(?![\p{L}\p{N}$])/u;
const DOUBLE_DOLLAR = /^\$\$(?!\$)((?:\\[^]|[^\\$]|\$(?!\$))+?)\$\$/;
const PARENTHESES = /^\\\(([^]+?)\\\)/;
const BRACKETS = /^\\\[([^]+?)\\\]/;
const AMOUNT = /^[\d.,]+\s+[A-Za-z]{2,}\b(?![({^_])/;
const EMPTY_LINE = /\n[ \t]*\n/;

interface Formula extends Tokens.Generic {
  tex: string;
  display: boolean;
}

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

/** MathML, or the source as code when it is no valid formula. */
export function renderFormula(tex: string, display: boolean): string {
  try {
    const html = katex.renderToString(tex, {
      displayMode: display,
      output: 'mathml',
      throwOnError: true,
      strict: 'ignore',
      trust: false,
      maxExpand: 500,
      maxSize: 20,
    });
    // The source is repeated as an annotation, which would show where MathML is unknown. Styles inside the
    // markup are forbidden by the page's content policy.
    const math = html.replace(/<annotation [^]*?<\/annotation>|<\/?semantics>| style="[^"]*"/g, '');
    return plainLetters(math);
  } catch {
    return `<code class="bad-math">${escapeHtml(tex)}</code>`;
  }
}

/** Where the next formula of this kind may begin. */
function findStart(src: string, sign: RegExp): number | undefined {
  const at = src.search(sign);
  return at < 0 ? undefined : at;
}

function inlineFormula(src: string): Formula | undefined {
  const display = DOUBLE_DOLLAR.exec(src) ?? BRACKETS.exec(src);
  const found = display ?? PARENTHESES.exec(src) ?? DOLLAR.exec(src);
  if (!found) return undefined;
  const tex = found[1]!;
  if (!display && found[0].startsWith('$') && (/\s$/.test(tex) || AMOUNT.test(tex))) return undefined;
  if (EMPTY_LINE.test(tex)) return undefined;
  return { type: 'inlineFormula', raw: found[0], tex: tex.trim(), display: Boolean(display) };
}

function blockFormula(src: string): Formula | undefined {
  const indent = /^ {0,3}/.exec(src)![0];
  const rest = src.slice(indent.length);
  const found = DOUBLE_DOLLAR.exec(rest) ?? BRACKETS.exec(rest);
  if (!found) return undefined;
  const after = /^[ \t]*(?:\n+|$)/.exec(rest.slice(found[0].length));
  if (!after) return undefined;
  return { type: 'blockFormula', raw: indent + found[0] + after[0], tex: found[1]!.trim(), display: true };
}

export const mathExtension: MarkedExtension = {
  extensions: [
    {
      name: 'blockFormula',
      level: 'block',
      start: (src) => findStart(src, /(?<=\n) {0,3}(?:\$\$|\\\[)/),
      tokenizer: blockFormula,
      renderer: (token) => `<div class="formula" tabindex="0">${renderFormula(token.tex, true)}</div>\n`,
    },
    {
      name: 'inlineFormula',
      level: 'inline',
      start: (src) => findStart(src, /(?<![\p{L}\p{N}$\\])\$|\\[([]/u),
      tokenizer: inlineFormula,
      renderer: (token) => renderFormula(token.tex, token.display),
    },
  ],
};
