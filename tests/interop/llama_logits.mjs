// llama.cpp (the prebuilt CPU library of the npm package node-llama-cpp) as a peer of `kt`.
//
//   llama_logits.mjs tokenize MODEL TEXT.txt OUT.json    token ids of the text, special tokens not parsed
//   llama_logits.mjs logits   MODEL IDS.json OUT.npy     f32 [n_tokens, vocab]: raw logits after every token
//   llama_logits.mjs scores   MODEL WINDOWS.json OUT.json
//        WINDOWS: array of arrays of ids, each evaluated from an empty cache; OUT: for each window the
//        natural-log probability of token i+1 after tokens 0..i, n-1 numbers
//   llama_logits.mjs greedy   MODEL IDS.json OUT.json --n N    the N most likely tokens that follow
//
// Flags: --threads N (default 2), --kv F16|F32 (default F16, llama.cpp's own), --vocab N (logits only).
// The package is looked up in $KT_TEST_CACHE/interop/node_modules, then beside this file.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";
import {parseArgs} from "node:util";

const kChunk = 32; // tokens whose results are held at once; bounds memory, results do not depend on it

function packageEntry() {
    const folders = [import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname)];
    if (process.env.KT_TEST_CACHE) folders.unshift(path.join(process.env.KT_TEST_CACHE, "interop"));
    for (const folder of folders) {
        const entry = path.join(folder, "node_modules", "node-llama-cpp", "dist", "index.js");
        if (fs.existsSync(entry)) return pathToFileURL(entry).href;
    }
    throw new Error(`node-llama-cpp is in none of ${folders.join(", ")}; run npm ci on tests/interop/package.json`);
}

/** Evaluates `tokens` from where the sequence stands; calls onResult(index, next) for every token. */
async function evaluate(sequence, tokens, wanted, onResult) {
    for (let start = 0; start < tokens.length; start += kChunk) {
        const items = tokens.slice(start, start + kChunk)
            .map((token, i) => [token, {generateNext: wanted(start + i)}]);
        const results = await sequence.controlledEvaluate(items);
        for (let i = 0; i < items.length; i++) onResult(start + i, results[i]?.next);
    }
}

function npyHeader(rows, columns) {
    const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows}, ${columns}), }`;
    const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
    const head = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, length & 255, length >> 8]);
    return Buffer.concat([head, Buffer.from(text.padEnd(length - 1) + "\n", "latin1")]);
}

async function logits(sequence, tokens, output, nVocab) {
    const file = fs.openSync(output, "w");
    fs.writeSync(file, npyHeader(tokens.length, nVocab));
    await evaluate(sequence, tokens, () => ({logits: true}), (index, next) => {
        const row = new Float32Array(nVocab).fill(NaN);
        for (const [token, value] of next.logits) row[token] = value;
        if (row.some(Number.isNaN)) throw new Error(`position ${index}: llama.cpp gave ${next.logits.size} logits`);
        fs.writeSync(file, new Uint8Array(row.buffer));
    });
    fs.closeSync(file);
}

/** Log-probability of each next token: logit(next) - logit(best) - ln(sum exp(logit - logit(best))). */
async function scores(sequence, tokens) {
    const out = [];
    const wanted = (i) => ({
        token: true, totalLogitWeight: true, options: {temperature: 0},
        logits: {filter: {tokens: [tokens[i + 1] ?? tokens[i]], includeSelected: true}},
    });
    await evaluate(sequence, tokens, wanted, (i, next) => {
        if (i + 1 === tokens.length) return;
        const value = next.logits.get(tokens[i + 1]) - next.logits.get(next.token) - Math.log(next.totalLogitWeight);
        if (!Number.isFinite(value)) throw new Error(`position ${i}: no finite log-probability`);
        out.push(value);
    });
    return out;
}

async function greedy(sequence, tokens, n) {
    const out = [];
    let fresh = tokens;
    while (out.length < n) {
        let best;
        const last = fresh.length - 1;
        await evaluate(sequence, fresh, (i) => (i === last ? {token: true, options: {temperature: 0}} : undefined),
            (i, next) => { if (i === last) best = next.token; });
        out.push(best);
        fresh = [best];
    }
    return out;
}

const {values: flags, positionals} = parseArgs({allowPositionals: true, options: {
    threads: {type: "string", default: "2"}, kv: {type: "string", default: "F16"},
    n: {type: "string", default: "24"}, vocab: {type: "string"},
}});
const [mode, modelPath, input, output] = positionals;
if (!output) throw new Error("wanted: tokenize|logits|scores|greedy MODEL INPUT OUTPUT");

const {getLlama, LlamaLogLevel} = await import(packageEntry());
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, progressLogs: false,
    logLevel: LlamaLogLevel.error, ramPadding: 0});
const model = await llama.loadModel({modelPath, vocabOnly: mode === "tokenize", gpuLayers: 0,
    ignoreMemorySafetyChecks: true});
const done = (value) => fs.writeFileSync(output, JSON.stringify(value));

if (mode === "tokenize") {
    done(Array.from(model.tokenize(fs.readFileSync(input, "utf8"), false)));
} else {
    const ids = JSON.parse(fs.readFileSync(input, "utf8"));
    const windows = mode === "scores" ? ids : [ids];
    const longest = Math.max(...windows.map((w) => w.length)) + (mode === "greedy" ? Number(flags.n) : 0);
    const context = await model.createContext({contextSize: Math.max(longest + 1, 32), batchSize: 512, sequences: 1,
        threads: Number(flags.threads), flashAttention: false, ignoreMemorySafetyChecks: true,
        experimentalKvCacheKeyType: flags.kv, experimentalKvCacheValueType: flags.kv});
    const sequence = context.getSequence();
    if (mode === "logits") {
        const nVocab = model.fileInfo.metadata.tokenizer.ggml.tokens.length;
        await logits(sequence, ids, output, Number(flags.vocab ?? nVocab));
    } else if (mode === "greedy") {
        done(await greedy(sequence, ids, Number(flags.n)));
    } else {
        const all = [];
        for (const window of windows) {
            await sequence.clearHistory();
            all.push(await scores(sequence, window));
        }
        done(all);
    }
}
process.exit(0);
