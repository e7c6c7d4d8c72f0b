/** The module tree with what runs where, read again every two seconds while it is on show. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, fetchPlacement, type PlacedModule } from '../lib/api';
import { formatBytes, formatShare } from '../lib/format';
import { buildTree, deviceTotals, visibleRows, type ModuleNode } from '../lib/module_tree';
import { askForKey, describe } from '../state/server';
import { t } from '../state/settings';
import { view } from '../state/view';
import { focusInput } from './dom';
import { Icon } from './icons';

const REFRESH_MS = 2000;
/** Chains such as model → layers have nothing to choose from: they start open. */
const OPEN_BELOW = 4;

function usePlacement(): { modules: PlacedModule[] | null; error: string | null } {
  const [modules, setModules] = useState<PlacedModule[] | null>(null);
  const [error, setError] = useState<string | null>(null);
  useEffect(() => {
    let ended = false;
    let timer: ReturnType<typeof setTimeout>;
    const look = async (): Promise<void> => {
      try {
        if (!document.hidden) {
          const fresh = await fetchPlacement();
          if (ended) return;
          setModules(fresh);
          setError(null);
        }
      } catch (problem) {
        if (ended) return;
        setError(describe(problem));
        if (problem instanceof ApiError && problem.status === 401) return askForKey(() => void look());
      }
      timer = setTimeout(() => void look(), REFRESH_MS);
    };
    void look();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, []);
  return { modules, error };
}

/** Paths that are open at first. */
function firstOpen(roots: ModuleNode[]): Set<string> {
  const open = new Set<string>();
  for (let level = roots; level.length > 0 && level.length <= OPEN_BELOW; ) {
    level.forEach(({ path }) => open.add(path));
    level = level.flatMap(({ children }) => children);
  }
  return open;
}

function allPaths(roots: ModuleNode[]): Set<string> {
  const paths = new Set<string>();
  const visit = (at: ModuleNode): void => {
    if (at.children.length) paths.add(at.path);
    at.children.forEach(visit);
  };
  roots.forEach(visit);
  return paths;
}

function ShareCell({ share }: { share: number | null }) {
  return (
    <td class="number">
      {share !== null && <span class="bar" style={{ width: `${Math.min(100, share * 100)}%` }} aria-hidden="true" />}
      {formatShare(share)}
    </td>
  );
}

interface RowProps {
  node: ModuleNode;
  depth: number;
  open: boolean;
  onToggle: (path: string) => void;
}

function Row({ node, depth, open, onToggle }: RowProps) {
  const { module, children, name, path } = node;
  return (
    <tr>
      <th scope="row" title={path}>
        <span class="indent" style={{ paddingInlineStart: `${depth * 1.1}rem` }}>
          {children.length > 0 ? (
            <button
              type="button"
              class="fold"
              aria-expanded={open}
              aria-label={t(open ? 'fold' : 'unfold', { name: path })}
              onClick={() => onToggle(path)}
            >
              <Icon name={open ? 'fold' : 'right'} />
            </button>
          ) : (
            <span class="fold" />
          )}
          {name}
        </span>
      </th>
      <ShareCell share={node.share} />
      <td>{module?.device ?? node.devices.join(', ')}</td>
      <td>{module?.operator ?? ''}</td>
      <td>{module?.format ?? ''}</td>
      <td class="number">{formatBytes(node.bytes)}</td>
      <td class="reason">{module?.reason ?? ''}</td>
    </tr>
  );
}

function Totals({ roots }: { roots: ModuleNode[] }) {
  return (
    <ul class="devices" aria-label={t('devices')}>
      {deviceTotals(roots).map(({ device, bytes, share }) => (
        <li key={device}>
          <strong>{device}</strong> {formatBytes(bytes)} · {formatShare(share)}
        </li>
      ))}
    </ul>
  );
}

function Tree({ modules }: { modules: PlacedModule[] }) {
  const roots = buildTree(modules);
  const [open, setOpen] = useState<ReadonlySet<string>>(() => firstOpen(roots));
  const toggle = (path: string): void => {
    const next = new Set(open);
    if (!next.delete(path)) next.add(path);
    setOpen(next);
  };
  const columns = ['module', 'share', 'device', 'operator', 'format', 'bytes', 'reason'] as const;
  return (
    <>
      <Totals roots={roots} />
      <div class="buttons start">
        <button type="button" onClick={() => setOpen(allPaths(roots))}>
          {t('unfoldAll')}
        </button>
        <button type="button" onClick={() => setOpen(new Set())}>
          {t('foldAll')}
        </button>
      </div>
      <div class="modules" tabIndex={0} role="group" aria-label={t('placement')}>
        <table>
          <thead>
            <tr>
              {columns.map((column) => (
                <th key={column} scope="col">
                  {t(column)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {visibleRows(roots, open).map(({ node, depth }) => (
              <Row key={node.path} node={node} depth={depth} open={open.has(node.path)} onToggle={toggle} />
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

export function PlacementView() {
  const { modules, error } = usePlacement();
  const idle = modules?.length && modules.every(({ share }) => share === null);
  return (
    <div class="placement">
      <div class="placement-head">
        <p class="hint">
          {t('placementIntro')} {idle ? t('placementIdle') : ''}
        </p>
        <button
          type="button"
          onClick={() => {
            view.value = 'chat';
            requestAnimationFrame(focusInput);
          }}
        >
          {t('backToChat')}
        </button>
      </div>
      {error && <p class="failed">{error}</p>}
      {modules && (modules.length ? <Tree modules={modules} /> : <p>{t('placementEmpty')}</p>)}
    </div>
  );
}
