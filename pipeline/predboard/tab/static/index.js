// @ts-check
/** The tab Predictions. TensorBoard imports this module and calls `render`. It knows how the views lie beside each
 * other, and which key does what; nothing of what is in them. */
import {batch, effect, h} from './elements.js';
import {getJson} from './api.js';
import {followTheme, onKeys, onReload, shown} from './host.js';
import {
  asTable,
  choose,
  chooseRange,
  chosen,
  cursor,
  dark,
  followAddress,
  followSelection,
  go,
  list,
  logdir,
  message,
  openIndex,
  pane,
  panes,
  readOnly,
  rowAt,
  run,
  runs,
  showAs,
  shownTotal,
  tagCounts,
  usable,
  view,
} from './state.js';
import {filtersOf} from './query.js';
import {bar, chips, copyLink, otherStep} from './bar.js';
import {comparison} from './comparison.js';
import {matrix} from './matrix.js';
import {CHANGE, pairs, TRUTH} from './pairs.js';
import {columnsPane, predicted, scores} from './histogram.js';
import {copyPath, detail, openAt, openNext, opened} from './detail.js';
import {gallery} from './gallery.js';
import {table} from './table.js';
import {openHelp, zoom} from './dialogs.js';
import {answer, chosenBar, datalists, messageLine, toggleTag, undo} from './tags.js';
import {map} from './map.js';
import {threshold} from './threshold.js';

async function look() {
  try {
    const answer = await getJson('runs');
    batch(() => {
      if (JSON.stringify(answer.runs) !== JSON.stringify(runs.peek())) runs.value = answer.runs;
      tagCounts.value = answer.tags;
      readOnly.value = answer.read_only;
      logdir.value = answer.logdir;
    });
  } catch (error) {
    runs.value ??= [];
    message.value = {text: /** @type {Error} */ (error).message};
  }
}

/** @param {Grid} pictures @param {Grid} lines */
function keysOf(pictures, lines) {
  const grid = () => (asTable.peek() ? lines : pictures);
  const images = () => document.getElementById(asTable.peek() ? 'table' : 'images');
  /** @param {number} to @param {boolean} range */
  const move = (to, range) => {
    const at = Math.max(0, Math.min(shownTotal.peek() - 1, to));
    if (range) chooseRange(cursor.peek(), at);
    if (view.peek().image) openAt(at);
    else cursor.value = at;
  };
  const current = () => (openIndex.peek() >= 0 ? openIndex.peek() : cursor.peek());
  /** @param {KeyboardEvent} event @returns {number | null} */
  const moved = event => {
    const {across, lines: down} = grid();
    const by = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: across(),
      ArrowUp: -across(),
      PageDown: across() * down(),
      PageUp: -across() * down(),
    }[event.key];
    if (by) return current() + by;
    return {Home: 0, End: shownTotal.peek() - 1}[event.key] ?? null;
  };
  /** @type {Record<string, () => void>} */
  const simple = {
    '?': openHelp,
    '[': () => otherStep(-1),
    ']': () => otherStep(1),
    l: copyLink,
    u: undo,
    e: () => go({right: view.peek().right === '0' ? '' : '0'}),
    g: () => showAs(!asTable.peek()),
    m: () => {
      if (pane.peek()) go({pane: ''}, true);
      document.getElementById('matrix')?.focus();
    },
    i: () => images()?.focus(),
    '/': () => document.getElementById('search')?.focus(),
    r: () => toggleTag('relabel'),
    h: () => toggleTag('hard'),
    t: () => document.getElementById(chosen.peek().size ? 'chosen-word' : 'open-word')?.focus(),
    z: () => zoom(opened.peek()),
    c: copyPath,
    a: () => opened.peek() && answer(opened.peek(), true, openNext),
    k: () => opened.peek() && answer(opened.peek(), false, openNext),
    x: () => pick(),
    ' ': () => pick(),
    Enter: () => openAt(current()),
    Escape: escape,
  };
  const pick = () => {
    const row = rowAt(current());
    if (row) choose(row.key);
  };
  function escape() {
    const menu = /** @type {HTMLDetailsElement | null} */ (document.querySelector('details.menu[open]'));
    const filters = filtersOf(view.peek());
    if (menu) menu.open = false;
    else if (message.peek()) message.value = null;
    else if (view.peek().image) {
      go({image: ''});
      images()?.focus();
    } else if (chosen.peek().size) chosen.value = new Set();
    else if (filters.length) go({[filters[filters.length - 1]]: ''});
  }

  return (/** @type {KeyboardEvent} */ event) => {
    const at = /** @type {HTMLElement} */ (event.target);
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName);
    if (event.defaultPrevented || !shown() || event.altKey) return;
    if (typing) {
      if (event.key === 'Escape') images()?.focus();
      return;
    }
    if (event.ctrlKey || event.metaKey) {
      if (event.key.toLowerCase() !== 'a' || !at.closest?.('.gallery')) return;
      chosen.value = new Set([...list.peek().pages.values()].flat().map(row => row.key));
      event.preventDefault();
      return;
    }
    if ((event.key === 'Enter' || event.key === ' ') && at.closest('button, summary, a, label')) return;
    const to = moved(event);
    if (to !== null) move(to, event.shiftKey);
    else if (simple[event.key]) simple[event.key]();
    else return;
    event.preventDefault();
  };
}

const PANES = {
  '': 'matrix',
  pairs: 'confused',
  changes: 'changes',
  map: 'map',
  columns: 'columns',
  threshold: 'threshold',
};

/** @param {HTMLElement} changed the changes by label */
function left(changed) {
  const tabs = h(
    'div',
    {class: 'tabs', role: 'tablist', 'aria-label': 'Views'},
    Object.entries(PANES).map(([name, words]) =>
      h(
        'button',
        {
          id: `pane-${name || 'matrix'}`,
          role: 'tab',
          'aria-controls': 'pane',
          hidden: () => !panes.value.includes(name),
          'aria-selected': () => pane.value === name,
          onclick: () => go({pane: name}, true),
        },
        () => (!name && run.value?.labelled === false ? 'predicted' : words),
      ),
    ),
  );
  return h(
    'section',
    {class: 'left', 'aria-label': 'overview'},
    tabs,
    h(
      'div',
      {id: 'pane', class: 'pane', role: 'tabpanel', 'aria-labelledby': () => `pane-${pane.value || 'matrix'}`},
      matrix(TRUTH),
      predicted(),
      matrix(CHANGE),
      changed,
      pairs(),
      map(),
      columnsPane(),
      threshold(),
    ),
    scores(),
  );
}

function nothing() {
  const broken = (runs.value ?? []).filter(one => one.kind === 'broken');
  return h(
    'div',
    {class: 'nothing'},
    h('p', null, broken.length ? 'No run of this folder can be read:' : 'No run of this folder of logs has rows yet.'),
    broken.map(one =>
      h('p', null, h('bdi', null, one.name.slice(0, 200)), ': ', String(one.error ?? '').slice(0, 1000)),
    ),
    h(
      'p',
      null,
      h('code', null, 'predboard visualize PREDICTIONS --logdir LOGS'),
      ' writes them; this page shows them when TensorBoard reloads.',
    ),
  );
}

export async function render() {
  document.documentElement.lang = 'en';
  const style = h('link', {rel: 'stylesheet', href: './static/style.css'});
  const styled = new Promise(done => {
    style.addEventListener('load', done);
    style.addEventListener('error', done);
  });
  document.head.append(style);
  followTheme(now => {
    dark.value = now;
  });
  followAddress();
  await Promise.all([styled, look()]);
  followSelection();
  const pictures = gallery();
  const lines = table();
  const changed = comparison();
  document.body.append(
    h(
      'div',
      {id: 'app'},
      h(
        'div',
        {class: 'app', hidden: () => !usable.value.length},
        h('h1', {class: 'unseen'}, 'Predictions'),
        bar(),
        changed.line,
        h(
          'main',
          {class: () => (view.value.image ? 'with-detail' : '')},
          left(changed.pane),
          h('section', {class: 'middle', 'aria-label': 'images'}, chips(), pictures.box, lines.box, chosenBar()),
          detail(),
        ),
      ),
      () => (usable.value.length ? null : nothing()),
      messageLine(),
      datalists(),
    ),
  );
  effect(() => {
    if (view.value.run && usable.value.length && !usable.value.some(one => one.name === view.value.run))
      message.value = {text: `There is no run “${view.value.run.slice(0, 200)}”: ${run.value?.name} is shown.`};
  });
  document.addEventListener('click', event => {
    for (const menu of document.querySelectorAll('details.menu[open]'))
      if (!menu.contains(/** @type {Node} */ (event.target))) /** @type {HTMLDetailsElement} */ (menu).open = false;
  });
  onReload(look);
  onKeys(keysOf(pictures.grid, lines.grid));
  window.focus();
  document.getElementById('images')?.focus({preventScroll: true});
  performance.mark('predboard-shown');
}
