// embed.mjs DIST OUT.cc: writes the built page as a C++ file that implements embed/web_assets.h.
// Bytes become octal escapes in string literals, which compile in a fraction of the time of a list of numbers.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { extname, join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';

const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
};
const LINE_BYTES = 64;
const OS_BYTE = 9;
const OS_UNKNOWN = 255;

const [dist, output] = process.argv.slice(2);

function literal(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += LINE_BYTES) {
    // Always three digits: a shorter escape would swallow a digit that follows.
    const codes = Array.from(bytes.subarray(at, at + LINE_BYTES), (b) => `\\${b.toString(8).padStart(3, '0')}`);
    lines.push(`    "${codes.join('')}"`);
  }
  return lines.join('\n');
}

function readAsset(path) {
  const type = TYPES[extname(path)];
  if (!type) throw new Error(`${path}: no content type is known for it`);
  const content = readFileSync(join(dist, path));
  const gzip = gzipSync(content, { level: 9 });
  gzip[OS_BYTE] = OS_UNKNOWN;
  const etag = createHash('sha256').update(content).digest('hex').slice(0, 16);
  return { path, type, gzip, etag };
}

const byPage = (a, b) => Number(b === 'index.html') - Number(a === 'index.html') || (a < b ? -1 : 1);
const assets = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => relative(dist, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
  .sort(byPage)
  .map(readAsset);

const data = assets.map(({ gzip }, i) => `constexpr char kData${i}[] =\n${literal(gzip)};\n`);
const rows = assets.map(
  ({ path, type, gzip, etag }, i) =>
    `    {"${path}", "${type}",\n` +
    `     {reinterpret_cast<const unsigned char*>(kData${i}), ${gzip.length}}, "\\"${etag}\\""},\n`,
);
writeFileSync(
  output,
  `// Made by apps/web/tools/embed.mjs.
#include "embed/web_assets.h"

#if defined(__clang__)
#pragma clang diagnostic ignored "-Woverlength-strings"
#endif

namespace kt::web {
namespace {

${data.join('\n')}
}  // namespace

std::span<const Asset> assets() {
  static const Asset kAssets[] = {
${rows.join('')}  };
  return kAssets;
}

}  // namespace kt::web
`,
);
