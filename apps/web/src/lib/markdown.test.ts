import { describe, expect, it } from 'vitest';
import { MarkdownRenderer, sanitize } from './markdown';

const renderer = new MarkdownRenderer({ copy: 'Copy', code: 'Code', table: 'Table' });
const html = (text: string): string => renderer.html(text);

function page(text: string): HTMLElement {
  const element = document.createElement('div');
  element.innerHTML = html(text);
  return element;
}

describe('hostile text', () => {
  const attacks = [
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '<svg onload=alert(1)><a xlink:href="javascript:alert(1)">x</a></svg>',
    '[x](javascript:alert(1))',
    '[x](JaVaScRiPt&#58;alert(1))',
    '[x](data:text/html;base64,PHNjcmlwdD4=)',
    '[x](vbscript:x "t")',
    '![x](javascript:alert(1))',
    '![x" onerror="alert(1)](https://example.com/a.png)',
    '![x](data:image/svg+xml;base64,PHN2Zz4=)',
    '<iframe src="https://example.com"></iframe>',
    '<style>*{display:none}</style>',
    '<p style="position:fixed">x</p>',
    '<a href="https://example.com" onclick="x()">x</a>',
    '<b onmouseover=alert(1)>x</b>',
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    '$\\href{javascript:alert(1)}{x}$',
    '$\\includegraphics{https://example.com/x.png}$',
    '$\\htmlStyle{color:red}{x}$ and $\\color{red}x$ and $\\fcolorbox{red}{blue}{x}$',
    '<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math>',
  ];

  it.each(attacks)('%s is harmless', (attack) => {
    const shown = page(attack);
    expect(shown.querySelectorAll('script, iframe, style, svg, object, form, link')).toHaveLength(0);
    for (const element of shown.querySelectorAll('*')) {
      for (const { name, value } of element.attributes) {
        expect(name).not.toMatch(/^on|^style$|^srcset$|^xlink/);
        if (name === 'href') expect(value).toMatch(/^(https?|mailto):/);
        if (name === 'src') expect(value).toMatch(/^data:image\/(png|jpeg|gif|webp);/);
      }
    }
  });

  it('shows HTML as text', () => {
    expect(page('<script>alert(1)</script>').textContent).toContain('<script>alert(1)</script>');
    expect(page('a <b>bold</b> H<sub>2</sub>O').querySelector('sub')?.textContent).toBe('2');
  });

  it('has a second lock', () => {
    expect(sanitize('<img src="https://example.com/x" onerror="x()"><a href="javascript:x">y</a>')).not.toMatch(
      /onerror|javascript/,
    );
  });
});

describe('pictures and links', () => {
  it('makes a link of a picture from elsewhere', () => {
    const shown = page('![a cat](https://example.com/cat.png)');
    expect(shown.querySelector('img')).toBeNull();
    expect(shown.querySelector('a')?.getAttribute('href')).toBe('https://example.com/cat.png');
    expect(shown.textContent?.trim()).toBe('a cat');
  });

  it('shows a picture that is in the text itself', () => {
    expect(page('![dot](data:image/png;base64,iVBORw0KGgo=)').querySelector('img')?.alt).toBe('dot');
  });

  it('opens links in a new tab, without a way back', () => {
    const link = page('[x](https://example.com)').querySelector('a')!;
    expect(link.target).toBe('_blank');
    expect(link.rel).toContain('noopener');
  });
});

describe('blocks', () => {
  it('colours code and labels it', () => {
    const shown = page('```python\ndef f(): pass\n```');
    expect(shown.querySelector('.hljs-keyword')?.textContent).toBe('def');
    expect(shown.querySelector('button.copy-code')?.textContent).toBe('Copy');
    expect(shown.querySelector('pre')?.getAttribute('aria-label')).toBe('Code, python');
    expect(shown.querySelector('code')?.textContent).toBe('def f(): pass');
  });

  it('leaves code of an unknown language as it is', () => {
    expect(page('```nosuch\n<b> & "x"\n```').querySelector('code')?.textContent).toBe('<b> & "x"');
  });

  it('renders an unfinished code block', () => {
    expect(page('```js\nconst a =').querySelector('code')?.textContent).toBe('const a =');
  });

  it('makes tables with alignment', () => {
    const shown = page('| a | b |\n|:-:|--:|\n| 1 | 2 |');
    expect(shown.querySelectorAll('td')[1]?.getAttribute('align')).toBe('right');
    expect(shown.querySelector('.table')?.getAttribute('tabindex')).toBe('0');
  });

  it('puts headings below those of the page', () => {
    expect(html('# Title')).toContain('<h3>Title</h3>');
  });

  it('renders earlier blocks the same while text grows', () => {
    const text = 'First *one*.\n\n```js\nlet a = 1\n```\n\nLast $x$ words';
    const full = renderer.blocks(text);
    const part = renderer.blocks(text.slice(0, -6));
    expect(part.slice(0, 2)).toEqual(full.slice(0, 2));
  });
});

describe('formulas', () => {
  it.each([
    ['$a+b$', false],
    ['see \\(a+b\\) here', false],
    ['$$a+b$$', true],
    ['\\[a+b\\]', true],
    ['before\n$$\na+b\n$$\nafter', true],
    ['- item\n\n  $$a+b$$', true],
    ['inside $$a+b$$ a line', true],
  ])('%j is a formula', (text, display) => {
    const math = page(text).querySelectorAll('math');
    expect(math).toHaveLength(1);
    expect(math[0]!.getAttribute('display') === 'block').toBe(display);
    expect(math[0]!.textContent).toContain('+');
    expect(math[0]!.textContent).not.toContain('a+b+');
  });

  it.each([
    'It costs $5 and $10.',
    'From $5-$10 a month, US$7 or $1,000/$2,000.',
    '$20 for the first$ thing',
    'Set $HOME and $PATH.',
    'Write `$x$` in code.',
    'A \\$5 note and a \\$10 note.',
    '```sh\necho $a $b$\n```',
    'One $ alone, a $ b $ c.',
    'between $5 million and $6 million',
    'AUD$5 and NZD$6',
  ])('%j is none', (text) => {
    expect(page(text).querySelector('math')).toBeNull();
    expect(page(text).textContent).toContain('$');
  });

  it.each(['$5x + 3$', '$2$', '$3.14 \\cdot r^2$', '$10^{-3}$', '$1/2$', '$n$-gram'])('%j is one', (text) => {
    expect(page(text).querySelector('math')).not.toBeNull();
  });

  it('uses letters that every browser has a style for', () => {
    const shown = page('$\\mathbb{R} \\mathcal{L} \\mathbf{x} \\mathfrak{g}$');
    expect(shown.textContent).toMatch(/ℝ.*ℒ.*𝐱.*𝔤/u);
    expect(html('$\\mathbb{R}$')).not.toContain('double-struck');
  });

  it('shows the source of what is no formula', () => {
    expect(page('$\\frac{$').querySelector('math')).toBeNull();
    expect(page('$\\nosuchmacro{x}$').querySelector('.bad-math')?.textContent).toBe('\\nosuchmacro{x}');
  });

  it('ends a macro that expands for ever', () => {
    expect(page('$\\def\\a{\\a\\a}\\a$').querySelector('.bad-math')).not.toBeNull();
  });
});
