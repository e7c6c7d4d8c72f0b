/** Line icons. Decorative: the buttons around them carry the names. */
const PATHS = {
  plus: 'M12 5v14M5 12h14',
  search: 'M11 4a7 7 0 1 0 0 14a7 7 0 1 0 0-14M16.2 16.2L21 21',
  menu: 'M4 7h16M4 12h16M4 17h16',
  close: 'M6 6l12 12M18 6L6 18',
  pencil: 'M4 20l1-4L16 5l3 3L8 19l-4 1M14 7l3 3',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5',
  gear: 'M4 7h9M17 7h3M15 5v4M4 12h3M11 12h9M9 10v4M4 17h9M17 17h3M15 15v4',
  tree: 'M4 5h7M8 5v14M8 12h5M8 19h5M16 12h4M16 19h4',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  redo: 'M20 11a8 8 0 1 0-2.3 6.2M20 5v6h-6',
  left: 'M14 6l-6 6l6 6',
  right: 'M10 6l6 6l-6 6',
  fold: 'M6 10l6 6l6-6',
  down: 'M12 5v14M6 13l6 6l6-6',
  send: 'M12 20V5M6 11l6-6l6 6',
  forward: 'M5 12h13M12 6l6 6l-6 6',
  stop: 'M7 7h10v10H7z',
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
