/** The flat list of placed modules as the tree that their paths name, with sums for what is folded. */
import type { PlacedModule } from './api';

export interface ModuleNode {
  path: string;
  /** Last part of the path. */
  name: string;
  module: PlacedModule | null;
  children: ModuleNode[];
  /** Of this module and all below it. */
  bytes: number | null;
  /** Its own measured share, else the sum of its children's. */
  share: number | null;
  /** Devices of this module and all below it, in order of appearance. */
  devices: string[];
}

export interface DeviceTotal {
  device: string;
  bytes: number;
  share: number | null;
}

const add = (a: number | null, b: number | null): number | null =>
  a === null ? b : b === null ? a : a + b;

function node(path: string, name: string): ModuleNode {
  return { path, name, module: null, children: [], bytes: null, share: null, devices: [] };
}

function total(at: ModuleNode): void {
  at.bytes = at.module?.bytes ?? null;
  let share: number | null = null;
  const devices = new Set<string>(at.module ? [at.module.device] : []);
  for (const child of at.children) {
    total(child);
    at.bytes = add(at.bytes, child.bytes);
    share = add(share, child.share);
    child.devices.forEach((device) => devices.add(device));
  }
  at.share = at.module?.share ?? share;
  at.devices = [...devices];
}

export function buildTree(modules: PlacedModule[]): ModuleNode[] {
  const root = node('', '');
  const byPath = new Map<string, ModuleNode>([['', root]]);
  const nodeAt = (path: string): ModuleNode => {
    const known = byPath.get(path);
    if (known) return known;
    const dot = path.lastIndexOf('.');
    const made = node(path, path.slice(dot + 1));
    byPath.set(path, made);
    nodeAt(dot < 0 ? '' : path.slice(0, dot)).children.push(made);
    return made;
  };
  for (const module of modules) {
    if (module.path !== '') nodeAt(module.path).module = module;
  }
  total(root);
  return root.children;
}

/** Per device; shares of modules inside another measured module count once. */
export function deviceTotals(roots: ModuleNode[]): DeviceTotal[] {
  const totals = new Map<string, DeviceTotal>();
  const visit = (at: ModuleNode, measured: boolean): void => {
    const own = at.module;
    if (own) {
      const entry = totals.get(own.device) ?? { device: own.device, bytes: 0, share: null };
      entry.bytes += own.bytes ?? 0;
      if (!measured) entry.share = add(entry.share, own.share);
      totals.set(own.device, entry);
    }
    at.children.forEach((child) => visit(child, measured || own?.share != null));
  };
  roots.forEach((root) => visit(root, false));
  return [...totals.values()];
}

/** Rows on show, with their depth, given which paths are open. */
export function visibleRows(roots: ModuleNode[], open: ReadonlySet<string>): { node: ModuleNode; depth: number }[] {
  const rows: { node: ModuleNode; depth: number }[] = [];
  const visit = (at: ModuleNode, depth: number): void => {
    rows.push({ node: at, depth });
    if (open.has(at.path)) at.children.forEach((child) => visit(child, depth + 1));
  };
  roots.forEach((root) => visit(root, 0));
  return rows;
}
