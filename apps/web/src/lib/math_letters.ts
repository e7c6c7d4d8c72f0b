/**
 * Letters of MathML's `mathvariant` as the Unicode letters they stand for: browsers with MathML Core know only
 * mathvariant="normal" and would show a double-struck R as a plain one.
 */

/** First code points of A, a and 0 in a style; 0 where it has none. */
const STYLES: Record<string, [upper: number, lower: number, digit: number]> = {
  bold: [0x1d400, 0x1d41a, 0x1d7ce],
  italic: [0x1d434, 0x1d44e, 0],
  'bold-italic': [0x1d468, 0x1d482, 0],
  script: [0x1d49c, 0x1d4b6, 0],
  'bold-script': [0x1d4d0, 0x1d4ea, 0],
  fraktur: [0x1d504, 0x1d51e, 0],
  'double-struck': [0x1d538, 0x1d552, 0x1d7d8],
  'bold-fraktur': [0x1d56c, 0x1d586, 0],
  'sans-serif': [0x1d5a0, 0x1d5ba, 0x1d7e2],
  'bold-sans-serif': [0x1d5d4, 0x1d5ee, 0x1d7ec],
  'sans-serif-italic': [0x1d608, 0x1d622, 0],
  monospace: [0x1d670, 0x1d68a, 0x1d7f6],
};

/** Letters that had a place in Unicode before these styles, which left holes in the ranges. */
const ELSEWHERE: Record<string, Record<string, string>> = {
  italic: { h: 'ℎ' },
  script: { B: 'ℬ', E: 'ℰ', F: 'ℱ', H: 'ℋ', I: 'ℐ', L: 'ℒ', M: 'ℳ', R: 'ℛ', e: 'ℯ', g: 'ℊ', o: 'ℴ' },
  fraktur: { C: 'ℭ', H: 'ℌ', I: 'ℑ', R: 'ℜ', Z: 'ℨ' },
  'double-struck': { C: 'ℂ', H: 'ℍ', N: 'ℕ', P: 'ℙ', Q: 'ℚ', R: 'ℝ', Z: 'ℤ' },
};

function styled(letter: string, style: string): string {
  const other = ELSEWHERE[style]?.[letter];
  if (other) return other;
  const [upper, lower, digit] = STYLES[style]!;
  const code = letter.charCodeAt(0);
  if (/^[A-Z]$/.test(letter)) return String.fromCodePoint(upper + code - 65);
  if (/^[a-z]$/.test(letter)) return String.fromCodePoint(lower + code - 97);
  if (/^[0-9]$/.test(letter) && digit) return String.fromCodePoint(digit + code - 48);
  return letter;
}

/** Rewrites the single letters and numbers of a MathML string; what has no such letter is left as it is. */
export function plainLetters(mathml: string): string {
  return mathml.replace(
    /<(mi|mn|mo|mtext) mathvariant="([a-z-]+)"([^>]*)>([^<&]*)<\/\1>/g,
    (whole, tag: string, style: string, attributes: string, text: string) => {
      if (!(style in STYLES) || !/^[A-Za-z0-9 ]+$/.test(text)) return whole;
      const letters = Array.from(text, (letter) => styled(letter, style)).join('');
      return `<${tag}${attributes}>${letters}</${tag}>`;
    },
  );
}
