// check_size.mjs DIST: fails when the built page is larger, gzipped, than it may be.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const MAX_KIB = 400;
const dist = process.argv[2] ?? 'dist';

const sizes = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath, entry.name))
  .map((path) => ({ path, size: gzipSync(readFileSync(path), { level: 9 }).length }));
const kib = sizes.reduce((sum, { size }) => sum + size, 0) / 1024;

for (const { path, size } of sizes) console.log(`${(size / 1024).toFixed(1).padStart(8)} KiB  ${path}`);
console.log(`${kib.toFixed(1).padStart(8)} KiB  gzipped in all; at most ${MAX_KIB}`);
if (kib > MAX_KIB) {
  console.error(`check_size: the page is ${kib.toFixed(1)} KiB gzipped, at most ${MAX_KIB} are allowed`);
  process.exit(1);
}
