// @ts-check
/** The confusion matrix on a canvas, for any number of classes. It knows nothing of single images. */
import {colour, computed, effect, h, prepare, signal, sizeOf} from './elements.js';
import {failure, getArray, getJson, resource} from './api.js';
import {className, dark, go, query, queryWithout, run, step, version, view} from './state.js';
import {classesOf, images, percent} from './query.js';

/** @param {ArrayBuffer} body @returns {Cells} */
function decode(body) {
  const all = new Int32Array(body);
  const n = all.length / 3;
  return {rows: all.subarray(0, n), columns: all.subarray(n, 2 * n), counts: all.subarray(2 * n)};
}

/** @param {string} address @param {AbortSignal} abort */
const getCells = async (address, abort) => decode(await getArray(address, abort));

/** @type {Axes} */
export const TRUTH = {rowKey: 'true', columnKey: 'pred', rowWord: 'true', columnWord: 'predicted', axes: '', name: 'matrix'};
/** @type {Axes} */
export const CHANGE = {rowKey: 'was', columnKey: 'pred', rowWord: 'before', columnWord: 'now', axes: 'old', name: 'changes'};

const LABELS = 96; // pixels for names at the left and above
const LEAST = 4; // classes that are shown when zoomed in most

/** @param {Axes} axes */
export function matrix(axes) {
  const shownNow = () => (view.value.pane || 'matrix') === axes.name && run.value?.labelled !== false;
  const cells = resource(() => {
    if (!shownNow() || (axes.axes && !view.value.other)) return '';
    const asked = queryWithout(axes.rowKey, axes.columnKey);
    return asked && `confusion?${asked}${axes.axes && '&axes=old'}&v=${encodeURIComponent(version.value)}`;
  }, getCells);
  const similar = resource(() => {
    if (!shownNow() || !run.value || view.value.order === 'name' || view.value.order === 'index') return '';
    return `order?${new URLSearchParams({run: run.value.name, step: step.value, v: version.value})}`;
  }, async (address, abort) => /** @type {number[]} */ ((await getJson(address, abort)).order));

  const counts = computed(() => aggregate(cells.value.data, run.value?.classes.length ?? 0));
  /** Classes in the order of the axes. */
  const order = computed(() => {
    const names = run.value?.classes ?? [];
    const all = names.map((_, index) => index);
    let list = similar.value.data?.length === all.length ? similar.value.data : all;
    if (view.value.order === 'index') list = all;
    if (view.value.order === 'name') list = [...all].sort((a, b) => names[a].localeCompare(names[b], 'en', {numeric: true}));
    const most = Number(view.value.most) || 0;
    if (most && most < list.length) {
      const worst = mostConfused(cells.value.data, most);
      list = list.filter(index => worst.has(index));
    }
    return list;
  });
  const place = computed(() => new Map(order.value.map((index, at) => [index, at])));

  /** What part is in sight: first row, first column, classes across. @type {Signal<{x: number, y: number, k: number}>} */
  const part = signal({x: 0, y: 0, k: 0});
  effect(() => {
    part.value = {x: 0, y: 0, k: order.value.length};
  });
  /** The cell under the pointer, or reached by keys: places on the axes; -1 is a name. */
  const cursor = signal(/** @type {{x: number, y: number} | null} */ (null));
  const canvas = h('canvas', {
    id: axes.name, tabindex: '0', role: 'application', class: 'matrix',
    'aria-label': () => `${axes.rowWord} against ${axes.columnWord}, ${order.value.length} classes; arrow keys and Enter choose`,
    onwheel: wheel, onpointerdown: press, onpointermove: move, onpointerup: release, onpointerleave: () => { cursor.value = null; },
    onkeydown: keys, onblur: () => { cursor.value = null; },
  });
  const box = h('div', {class: 'square', 'data-stale': () => cells.value.stale}, canvas);
  const room = sizeOf(box);
  const size = computed(() => (room.value.width ? Math.min(room.value.width, Math.max(240, room.value.height)) : 0));

  const drawing = computed(() => ({
    size: size.value, part: part.value, counts: counts.value, order: order.value, place: place.value, axes,
    log: view.value.log === '1', diagonal: view.value.diagonal !== '0', count: view.value.count ?? '', dark: dark.value,
    cursor: cursor.value, rows: classesOf(view.value[axes.rowKey]), columns: classesOf(view.value[axes.columnKey]),
  }));
  effect(() => {
    if (drawing.value.size && cells.value.data) draw(canvas, drawing.value);
  });

  const scale = () => (size.peek() - LABELS) / part.peek().k;
  /** @param {PointerEvent | MouseEvent} event */
  function at(event) {
    const corner = canvas.getBoundingClientRect();
    const {x, y} = part.peek();
    const [px, py] = [event.clientX - corner.left, event.clientY - corner.top];
    return {px, py, x: (px - LABELS) / scale() + x, y: (py - LABELS) / scale() + y};
  }
  /** @param {{x: number, y: number, k: number}} to */
  function see(to) {
    const all = order.peek().length;
    const k = Math.max(Math.min(LEAST, all), Math.min(all, to.k));
    part.value = {k, x: Math.max(0, Math.min(all - k, to.x)), y: Math.max(0, Math.min(all - k, to.y))};
  }
  function whole() {
    see({x: 0, y: 0, k: order.peek().length});
  }
  /** @param {number} factor @param {number} x @param {number} y */
  function zoom(factor, x, y) {
    const from = part.peek();
    const all = order.peek().length;
    const k = Math.max(Math.min(LEAST, all), Math.min(all, from.k * factor));
    see({k, x: x - ((x - from.x) * k) / from.k, y: y - ((y - from.y) * k) / from.k});
  }
  /** @param {WheelEvent} event */
  function wheel(event) {
    event.preventDefault();
    const {x, y} = at(event);
    zoom(event.deltaY > 0 ? 1.25 : 0.8, x, y);
  }
  /** @type {{event: PointerEvent, x: number, y: number, moved: boolean} | null} */
  let drag = null;
  /** @param {PointerEvent} event */
  function press(event) {
    if (event.button) return;
    drag = {event, x: part.peek().x, y: part.peek().y, moved: false};
    canvas.setPointerCapture(event.pointerId);
  }
  /** @param {PointerEvent} event */
  function move(event) {
    const [dx, dy] = drag ? [event.clientX - drag.event.clientX, event.clientY - drag.event.clientY] : [0, 0];
    if (drag && (drag.moved || Math.hypot(dx, dy) > 4)) {
      drag.moved = true;
      see({k: part.peek().k, x: drag.x - dx / scale(), y: drag.y - dy / scale()});
      return;
    }
    const {px, py, x, y} = at(event);
    const all = order.peek().length;
    const inside = x < all && y < all && (px >= LABELS || py >= LABELS);
    const next = inside ? {x: px < LABELS ? -1 : Math.floor(x), y: py < LABELS ? -1 : Math.floor(y)} : null;
    const {x: oldX, y: oldY} = cursor.peek() ?? {};
    if (next?.x !== oldX || next?.y !== oldY) cursor.value = next;
  }
  /** @param {PointerEvent} event */
  function release(event) {
    const pressed = drag;
    drag = null;
    if (!pressed || pressed.moved) return;
    move(event);
    if (cursor.peek()) pick(cursor.peek());
    else go({[axes.rowKey]: '', [axes.columnKey]: ''});
  }
  /** Choose a cell, a row or a column; the chosen one again lets go of it. @param {{x: number, y: number} | null} cell */
  function pick(cell) {
    if (!cell) return;
    const row = cell.y < 0 ? '' : String(order.peek()[cell.y]);
    const column = cell.x < 0 ? '' : String(order.peek()[cell.x]);
    const now = view.peek();
    const again = (now[axes.rowKey] ?? '') === row && (now[axes.columnKey] ?? '') === column;
    go({[axes.rowKey]: again ? '' : row, [axes.columnKey]: again ? '' : column, ...(again ? {} : {right: ''})});
  }
  /** @param {KeyboardEvent} event */
  function keys(event) {
    const by = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    const all = order.peek().length;
    if (by && !event.altKey && !event.ctrlKey && !event.metaKey) {
      const {x, y} = cursor.peek() ?? {x: by[0] > 0 ? -1 : 0, y: by[1] > 0 ? -1 : 0};
      const next = {x: Math.max(-1, Math.min(all - 1, x + by[0])), y: Math.max(-1, Math.min(all - 1, y + by[1]))};
      if (next.x < 0 && next.y < 0) next.x = 0;
      const {x: left, y: up, k} = part.peek();
      const follow = (/** @type {number} */ to, /** @type {number} */ first) => (to < 0 ? first : Math.min(Math.max(first, to - k + 1), to));
      see({k, x: follow(next.x, left), y: follow(next.y, up)});
      cursor.value = next;
    } else if (event.key === 'Enter' || event.key === ' ') pick(cursor.peek());
    else if (event.key === '+' || event.key === '-') {
      const {x, y, k} = part.peek();
      const middle = cursor.peek() ?? {x: x + k / 2, y: y + k / 2};
      zoom(event.key === '+' ? 0.7 : 1.4, Math.max(middle.x, 0), Math.max(middle.y, 0));
    } else if (event.key === '0') whole();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Bring a class into sight. @param {number} index */
  function find(index) {
    const to = place.peek().get(index);
    if (to === undefined) return;
    const k = Math.min(order.peek().length, Math.max(LEAST, Math.min(24, part.peek().k)));
    see({k, x: to - k / 2 + 0.5, y: to - k / 2 + 0.5});
    cursor.value = {x: to, y: to};
  }

  /** Images that are in no cell. */
  const outside = () => Object.entries(run.value?.states?.[step.value] ?? {}).filter(([, n]) => n);
  const words = () => {
    const cell = cursor.value;
    const now = counts.value;
    if (!cell) return `${images(now.all)}, ${percent(now.all ? now.right / now.all : null)} ${axes.axes ? 'the same' : 'right'}`;
    const [row, column] = [order.value[cell.y], order.value[cell.x]];
    if (row === undefined && column === undefined) return '';
    if (row === undefined) return `${axes.columnWord} ${className(column)}: ${images(now.columnSums[column])}`;
    if (column === undefined) return `${axes.rowWord} ${className(row)}: ${images(now.rowSums[row])}`;
    const n = now.of.get(row * now.classes + column) ?? 0;
    const share = now.rowSums[row] ? `, ${percent(n / now.rowSums[row])} of ${axes.rowWord}` : '';
    return `${className(row)} → ${className(column)}: ${images(n)}${n ? share : ''}`;
  };
  return h('section', {class: 'matrix-pane', hidden: () => !shownNow()},
    options(axes, order, find, whole, part),
    failure(cells),
    box,
    h('p', {class: 'readout', 'aria-live': 'polite'}, words),
    axes.axes ? null : h('p', {class: 'readout inline', hidden: () => !outside().length}, () => outside().map(([state, n]) =>
      h('button', {id: `state-${state}`, class: 'text', onclick: () => go({state: view.peek().state === state ? '' : state, true: '', pred: '', right: ''})}, `${n.toLocaleString('en')} ${state === 'failed' ? 'not readable' : 'without a label'}`))));
}

/**
 * @param {Axes} axes @param {Computed<number[]>} order @param {(index: number) => void} find
 * @param {() => void} whole @param {Signal<{k: number}>} part
 */
function options(axes, order, find, whole, part) {
  /** @param {string} key @param {Record<string, string>} choices @param {string} name */
  const select = (key, choices, name) => h('select', {
    'aria-label': name, title: name, value: () => view.value[key] ?? '',
    onchange: e => go({[key]: e.target.value}, true),
  }, Object.entries(choices).map(([value, words]) => h('option', {value}, words)));
  /** @param {string} key @param {string} words @param {string} on @param {string} off @param {string} title */
  const check = (key, words, on, off, title) => h('label', {title}, h('input', {type: 'checkbox', checked: () => (view.value[key] ?? '') === on,
    onchange: e => go({[key]: e.target.checked ? on : off}, true)}), words);
  const many = () => (run.value?.classes.length ?? 0) > 12;
  const search = h('input', {
    type: 'search', placeholder: 'Find class', 'aria-label': 'Find a class in the matrix', list: 'classes', class: 'narrow', hidden: () => !many(),
    onchange: e => {
      const text = e.target.value.toLowerCase();
      const names = run.peek()?.classes ?? [];
      const exact = names.findIndex(name => name.toLowerCase() === text);
      const index = exact >= 0 ? exact : names.findIndex(name => name.toLowerCase().includes(text));
      if (text && index >= 0) find(index);
    },
  });
  return h('div', {class: 'options'},
    select('order', {'': 'similar together', name: 'by name', index: 'by number'}, 'Order of classes'),
    select('count', {'': 'counts', row: `share of ${axes.rowWord}`, column: `share of ${axes.columnWord}`}, 'What the cells show'),
    h('span', {hidden: () => !many()}, select('most', {'': 'all classes', 10: '10 most confused', 25: '25 most confused', 100: '100 most confused'}, 'How many classes')),
    check('log', 'log', '1', '', 'Colours by the logarithm of the counts'), check('diagonal', 'diagonal', '', '0', 'Show the diagonal'),
    search,
    h('button', {hidden: () => part.value.k >= order.value.length, onclick: whole, title: 'Show all classes (0)'}, 'whole'));
}

/** The classes of the pairs that are confused most. @param {Cells | null} cells @param {number} most */
function mostConfused(cells, most) {
  /** @type {Set<number>} */
  const classes = new Set();
  if (!cells) return classes;
  const wrong = [...cells.counts.keys()].filter(i => cells.rows[i] !== cells.columns[i]);
  for (const i of wrong.sort((a, b) => cells.counts[b] - cells.counts[a])) {
    if (classes.size < most) classes.add(cells.rows[i]);
    if (classes.size < most) classes.add(cells.columns[i]);
  }
  return classes;
}

/** @param {Cells | null} cells @param {number} classes */
function aggregate(cells, classes) {
  const [rowSums, columnSums] = [new Float64Array(classes), new Float64Array(classes)];
  /** @type {Map<number, number>} */
  const of = new Map();
  const sums = {all: 0, right: 0, cells, classes, rowSums, columnSums, of};
  for (let i = 0; cells && i < cells.counts.length; i++) {
    const [row, column, n] = [cells.rows[i], cells.columns[i], cells.counts[i]];
    if (row < 0 || column < 0) continue;
    of.set(row * classes + column, n);
    rowSums[row] += n;
    columnSums[column] += n;
    sums.all += n;
    if (row === column) sums.right += n;
  }
  return sums;
}

/** @param {HTMLCanvasElement} canvas @param {any} now */
function draw(canvas, now) {
  const {size, part, order, place, counts, count} = now;
  canvas.style.width = canvas.style.height = `${size}px`;
  const g = prepare(canvas, size, size);
  const cell = (size - LABELS) / part.k;
  const gap = cell > 6 ? 1 : 0;
  const change = Boolean(now.axes.axes); // neither right nor wrong
  const colours = {same: colour(change ? '--unknown' : '--right'), other: colour(change ? '--changed' : '--wrong'), ink: colour('--ink'), soft: colour('--cell'), faint: colour('--faint')};
  g.save();
  g.beginPath();
  g.rect(LABELS, LABELS, size - LABELS, size - LABELS);
  g.clip();
  g.fillStyle = colours.soft;
  const grid = Math.min(part.k, order.length) * cell;
  g.fillRect(LABELS, LABELS, grid, grid);
  const shares = shareOf(counts, count);
  const most = [0, 0];
  /** @type {[number, number, number, number][]} */
  const visible = [];
  const {cells} = counts;
  for (let i = 0; i < cells.counts.length; i++) {
    const [x, y] = [place.get(cells.columns[i]), place.get(cells.rows[i])];
    if (x === undefined || y === undefined) continue;
    const same = cells.rows[i] === cells.columns[i];
    if (same && !now.diagonal) continue;
    const value = shares(cells.rows[i], cells.columns[i], cells.counts[i]);
    most[Number(same)] = Math.max(most[Number(same)], value);
    if (x > part.x - 1 && x < part.x + part.k && y > part.y - 1 && y < part.y + part.k) visible.push([x, y, value, Number(same)]);
  }
  g.textAlign = 'center';
  g.font = `${Math.min(13, Math.max(9, cell / 2.9))}px system-ui, sans-serif`;
  for (const [x, y, value, same] of visible) {
    const part_ = now.log ? Math.log1p(count ? value * 1000 : value) / Math.log1p(count ? most[same] * 1000 : most[same]) : Math.sqrt(value / most[same]);
    g.globalAlpha = same ? 0.12 + 0.58 * part_ : 0.16 + 0.84 * part_;
    g.fillStyle = same ? colours.same : colours.other;
    const [px, py] = [LABELS + (x - part.x) * cell, LABELS + (y - part.y) * cell];
    g.fillRect(px, py, Math.max(cell - gap, 1), Math.max(cell - gap, 1));
    if (cell >= 24) {
      g.globalAlpha = 1;
      g.fillStyle = colours.ink;
      g.fillText(cellText(value, count), px + cell / 2, py + cell / 2);
    }
  }
  g.globalAlpha = 1;
  g.strokeStyle = colours.ink;
  g.lineWidth = 2;
  const rows = now.rows.map((/** @type {number} */ c) => place.get(c)).filter((/** @type {any} */ v) => v !== undefined);
  const columns = now.columns.map((/** @type {number} */ c) => place.get(c)).filter((/** @type {any} */ v) => v !== undefined);
  const across = size - LABELS;
  const frame = (/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ w, /** @type {number} */ height) =>
    g.strokeRect(x + 1, y + 1, Math.max(w - gap - 2, 4), Math.max(height - gap - 2, 4));
  for (const y of rows.length ? rows : [-1])
    for (const x of columns.length ? columns : [-1])
      if (x >= 0 || y >= 0)
        frame(x < 0 ? LABELS : LABELS + (x - part.x) * cell, y < 0 ? LABELS : LABELS + (y - part.y) * cell, x < 0 ? across : cell, y < 0 ? across : cell);
  if (now.cursor && now.cursor.x >= 0 && now.cursor.y >= 0) {
    g.lineWidth = 1;
    frame(LABELS + (now.cursor.x - part.x) * cell, LABELS + (now.cursor.y - part.y) * cell, cell, cell);
  }
  g.restore();
  drawNames(g, now, cell, colours);
  canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
}

/** @param {any} counts @param {string} kind @returns {(row: number, column: number, n: number) => number} */
function shareOf(counts, kind) {
  if (kind === 'row') return (row, _, n) => n / counts.rowSums[row];
  if (kind === 'column') return (_, column, n) => n / counts.columnSums[column];
  return (_row, _column, n) => n;
}

/** @param {number} value @param {string} kind */
function cellText(value, kind) {
  if (kind) return value > 0.995 && value < 1 ? '.99' : value >= 1 ? '1' : value < 0.005 ? '0' : value.toFixed(2).slice(1);
  if (value >= 100_000) return `${Math.round(value / 1000)}k`;
  return value >= 10_000 ? `${(value / 1000).toFixed(1)}k` : String(value);
}

/** @param {CanvasRenderingContext2D} g @param {any} now @param {number} cell @param {Record<string, string>} colours */
function drawNames(g, now, cell, colours) {
  const {part, order, axes, cursor} = now;
  const every = Math.max(1, Math.ceil(13 / cell));
  for (const side of ['row', 'column']) {
    const first = side === 'row' ? part.y : part.x;
    const chosen = side === 'row' ? now.rows : now.columns;
    const here = side === 'row' ? cursor?.y : cursor?.x;
    for (let at = Math.ceil(first - 0.5); at < Math.min(order.length, first + part.k - 0.4); at++) {
      const special = at === here || chosen.includes(order[at]);
      const crowded = [here, ...chosen.map((/** @type {number} */ c) => now.place.get(c))].some(p => p >= 0 && p !== at && Math.abs(p - at) * cell < 13);
      if (!special && (at % every || crowded)) continue;
      const middle = LABELS + (at - first + 0.5) * cell - 0.5;
      g.font = `${special ? '600 ' : ''}11px system-ui, sans-serif`;
      g.fillStyle = special || every === 1 ? colours.ink : colours.faint;
      const text = fitted(g, className(order[at]), LABELS - 8);
      g.save();
      if (side === 'row') g.translate(LABELS - 5, middle);
      else {
        g.translate(middle, LABELS - 5);
        g.rotate(-Math.PI / 2);
      }
      g.textAlign = side === 'row' ? 'right' : 'left';
      g.fillText(text, 0, 0);
      g.restore();
    }
  }
  g.font = '11px system-ui, sans-serif';
  g.fillStyle = colours.faint;
  g.textAlign = 'left';
  g.fillText(`${axes.columnWord} →`, 4, 10);
  g.fillText(`${axes.rowWord} ↓`, 4, 25);
}

/** A name that fits into a width. @param {CanvasRenderingContext2D} g @param {string} text @param {number} width */
function fitted(g, text, width) {
  const cut = text.slice(0, 60); // some are ten thousand characters long
  const wide = g.measureText(cut).width;
  return wide <= width ? cut : `${cut.slice(0, Math.max(1, Math.floor((cut.length * (width - 12)) / wide)))}…`;
}

/** The pairs that are confused most, as a list: what the matrix shows, for keys and screen readers. */
export function pairs() {
  const shownNow = () => view.value.pane === 'pairs';
  const cells = resource(() => (shownNow() && query.value ? `confusion?${queryWithout('true', 'pred')}&v=${encodeURIComponent(version.value)}` : ''), getCells);
  const worst = computed(() => {
    const data = cells.value.data;
    if (!data) return [];
    const rowSums = aggregate(data, run.value?.classes.length ?? 0).rowSums;
    const all = [...data.counts.keys()].filter(i => data.rows[i] !== data.columns[i] && data.rows[i] >= 0 && data.columns[i] >= 0);
    return all.sort((a, b) => data.counts[b] - data.counts[a]).slice(0, 300)
      .map(i => ({row: data.rows[i], column: data.columns[i], n: data.counts[i], share: data.counts[i] / rowSums[data.rows[i]]}));
  });
  return h('section', {class: 'pairs scroll', hidden: () => !shownNow()}, h('ol', {class: 'bars'}, () => {
    const most = worst.value[0]?.n ?? 1;
    return worst.value.map(({row, column, n, share}) => {
      const on = () => view.value.true === String(row) && view.value.pred === String(column);
      return h('li', null, h('button', {id: `pair-${row}-${column}`, class: 'bar-row', 'aria-pressed': () => on(), title: `${percent(share)} of true ${className(row)}`.slice(0, 300),
        onclick: () => go(on() ? {true: '', pred: ''} : {true: String(row), pred: String(column), right: ''})},
        h('span', {class: 'clip'}, h('bdi', {}, className(row).slice(0, 200)), ' → ', h('bdi', {}, className(column).slice(0, 200))),
        h('span', {class: 'track'}, h('span', {class: 'fill wrong', style: {width: `${(100 * n) / most}%`}})),
        h('span', {class: 'number'}, n.toLocaleString('en'))));
    });
  }), () => (cells.value.data && !worst.value.length ? h('p', {class: 'notice'}, 'No image of this selection is wrong.') : null));
}
