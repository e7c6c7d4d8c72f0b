import { describe, expect, it } from 'vitest';
import type { PlacedModule } from './api';
import { formatBytes, formatShare } from './format';
import { buildTree, deviceTotals, visibleRows } from './module_tree';

const module = (path: string, device: string, bytes: number | null, share: number | null): PlacedModule => ({
  path, operator: 'Op', device, format: null, bytes, reason: '', share,
});

const modules = [
  module('model.layers.0.self_attn', 'cuda:0', 10, 0.1),
  module('model.layers.0.mlp', 'cpu', 5, 0.5),
  module('model.layers.0.mlp.experts', 'cpu', 100, 0.4),
  module('model.layers.1.self_attn', 'cuda:0', null, null),
  module('lm_head', 'cuda:0', 7, 0.2),
];

describe('module tree', () => {
  it('follows the paths and sums what is below', () => {
    const [model, head] = buildTree(modules);
    expect(head!.name).toBe('lm_head');
    expect(model!.bytes).toBe(115);
    expect(model!.devices).toEqual(['cuda:0', 'cpu']);
    // mlp measured itself: its experts are inside that.
    expect(model!.share).toBeCloseTo(0.6);
    expect(model!.children[0]!.children[1]!.share).toBeNull();
  });

  it('counts each share once per device', () => {
    const totals = deviceTotals(buildTree(modules));
    expect(totals).toEqual([
      { device: 'cuda:0', bytes: 17, share: expect.closeTo(0.3) },
      { device: 'cpu', bytes: 105, share: 0.5 },
    ]);
  });

  it('shows what is open', () => {
    const roots = buildTree(modules);
    expect(visibleRows(roots, new Set()).map(({ node }) => node.path)).toEqual(['model', 'lm_head']);
    const open = visibleRows(roots, new Set(['model', 'model.layers']));
    expect(open.map(({ node, depth }) => `${depth} ${node.name}`)).toEqual([
      '0 model', '1 layers', '2 0', '2 1', '0 lm_head',
    ]);
  });
});

describe('numbers', () => {
  it('reads well', () => {
    expect([0, 1023, 1536, 5 * 2 ** 30, 250 * 2 ** 20].map(formatBytes)).toEqual([
      '0 B', '1023 B', '1.5 KiB', '5.0 GiB', '250 MiB',
    ]);
    expect([null, 0.0123, 0.0999, 0.5, 1].map(formatShare)).toEqual(['–', '1.2 %', '10 %', '50 %', '100 %']);
  });
});
