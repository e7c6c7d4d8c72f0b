/** Numbers for people. */
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function formatBytes(bytes: number | null): string {
  if (bytes === null) return '–';
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    ++unit;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export const formatShare = (share: number | null): string =>
  share === null ? '–' : `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`;

export const formatCount = (count: number): string => count.toLocaleString('en-US');

export const formatRate = (rate: number): string => rate.toFixed(rate < 10 ? 2 : 1);
