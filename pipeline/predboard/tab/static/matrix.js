// @ts-check
/** The confusion matrix on a canvas, for any number of classes. It knows nothing of single images. */
import {computed, effect, h, signal, sizeOf} from './elements.js';
import {failure, getJson, resource} from './api.js';
import {axisCount, axisName, grouped, groupOrder, groupsOf, level, members} from './groups.js';
import {aggregate, classCount, getCells, mostConfused} from './pairs.js';
import {dark, go, pane, queryWithout, run, step, version, view} from './state.js';
import {draw, drawCells, LABELS} from './matrix_canvas.js';
import {classesOf, images, percent} from './query.js';

const LEAST = 4; // classes that are shown when zoomed in most

/** @param {Axes} axes */
export function matrix(axes) {
  const shownNow = () =>
    (pane.value || 'matrix') === axes.name && (axes.axes ? !run.value?.multi_label : run.value?.labelled !== false);
  const cells = resource(() => {
    if (!shownNow() || (axes.axes && !view.value.other)) return '';
    const asked = queryWithout(axes.rowKey, axes.columnKey);
    return asked && `confusion?${asked}${axes.axes && '&axes=old'}&v=${encodeURIComponent(version.value)}`;
  }, getCells);
  const similar = resource(
    () => {
      if (!shownNow() || !run.value || view.value.order === 'name' || view.value.order === 'index') return '';
      return `order?${new URLSearchParams({run: run.value.name, step: step.value, v: version.value})}`;
    },
    async (address, abort) => /** @type {number[]} */ ((await getJson(address, abort)).order),
  );

  const counts = computed(() => aggregate(grouped(cells.value.data), axisCount()));
  const order = computed(() => {
    const names = run.value?.classes ?? [];
    const all = names.map((_, index) => index);
    let list = similar.value.data?.length === all.length ? similar.value.data : all;
    if (view.value.order === 'index') list = all;
    if (view.value.order === 'name')
      list = [...all].sort((a, b) => names[a].localeCompare(names[b], 'en', {numeric: true}));
    if (level.value) return groupOrder(list);
    const [, at, group] = /^g(\d+)\.(\d+)$/.exec(view.value.most ?? '') ?? [];
    const within = group && run.value?.levels[Number(at)];
    if (within) return list.filter(index => within.group_of[index] === Number(group));
    const most = Number(view.value.most) || 0;
    if (most && most < list.length) {
      const worst = mostConfused(cells.value.data, most);
      list = list.filter(index => worst.has(index));
    }
    return run.value?.multi_label ? [...list, all.length] : list; // the last is nothing
  });
  const place = computed(() => {
    const places = new Int32Array(axisCount()).fill(-1);
    order.value.forEach((index, at) => {
      places[index] = at;
    });
    return places;
  });

  /** @type {Signal<Part>} */
  const part = signal({x: 0, y: 0, k: 0});
  effect(() => {
    part.value = {x: 0, y: 0, k: order.value.length};
  });
  const cursor = signal(/** @type {{x: number, y: number} | null} */ (null));
  const canvas = h('canvas', {
    id: axes.name,
    tabindex: '0',
    role: 'application',
    class: 'matrix',
    'aria-label': () =>
      `${axes.rowWord} against ${axes.columnWord}, ${order.value.length} ${level.value ? 'groups' : 'classes'}; ` +
      'arrow keys and Enter choose',
    onwheel: wheel,
    onpointerdown: press,
    onpointermove: move,
    onpointerup: release,
    onpointerleave: () => {
      cursor.value = null;
    },
    onkeydown: keys,
    onblur: () => {
      cursor.value = null;
    },
  });
  const box = h('div', {class: 'square', 'data-stale': () => cells.value.stale}, canvas);
  const room = sizeOf(box);
  const size = computed(() => (room.value.width ? Math.min(room.value.width, Math.max(240, room.value.height)) : 0));

  const options_ = computed(() =>
    JSON.stringify([view.value.log === '1', view.value.diagonal !== '0', view.value.count ?? '']),
  );
  const layer = computed(() => {
    if (!size.value || !counts.value.cells) return null;
    const [log, diagonal, count] = JSON.parse(options_.value);
    void dark.value;
    return drawCells({
      size: size.value,
      part: part.value,
      counts: counts.value,
      order: order.value,
      place: place.value,
      axes,
      log,
      diagonal,
      count,
      name: axisName,
    });
  });
  effect(() => {
    if (layer.value)
      draw(canvas, layer.value, cursor.value, chosenOf(axes.rowKey), chosenOf(axes.columnKey));
  });

  /** @param {string} key */
  const chosenOf = key => groupsOf(classesOf(view.value[key]).map(index => (index < 0 ? classCount() - 1 : index)));
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
  /** @param {Spot | null} cell */
  function pick(cell) {
    if (!cell) return;
    const value = (/** @type {number} */ at) => {
      const index = order.peek()[at];
      if (at < 0) return '';
      if (level.peek()) return members(/** @type {Level} */ (level.peek()), index).join();
      return String(run.peek()?.classes.length === index ? -1 : index);
    };
    const [row, column] = [value(cell.y), value(cell.x)];
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
      const follow = (/** @type {number} */ to, /** @type {number} */ first) =>
        to < 0 ? first : Math.min(Math.max(first, to - k + 1), to);
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

  /** @param {number} index */
  function find(index) {
    const to = place.peek()[index];
    if (to < 0) return;
    const k = Math.min(order.peek().length, Math.max(LEAST, Math.min(24, part.peek().k)));
    see({k, x: to - k / 2 + 0.5, y: to - k / 2 + 0.5});
    cursor.value = {x: to, y: to};
  }

  const outside = () => Object.entries(run.value?.states?.[step.value] ?? {}).filter(([, n]) => n);
  const words = () => {
    const cell = cursor.value;
    const now = counts.value;
    if (!cell) {
      if (run.value?.multi_label) return 'What was missed, and what was predicted instead';
      const chosen = view.value[axes.rowKey] || view.value[axes.columnKey] ? 'All cells: ' : '';
      const share = percent(now.all ? now.right / now.all : null);
      const right = level.value ? 'in the right group' : 'right';
      return `${chosen}${images(now.all)}, ${share} ${axes.axes ? 'the same' : right}`;
    }
    const [row, column] = [order.value[cell.y], order.value[cell.x]];
    if (row === undefined && column === undefined) return '';
    if (run.value?.multi_label) {
      const parts = [row === undefined ? '' : `missed ${axisName(row)}`];
      if (column !== undefined) parts.push(`wrongly predicted ${axisName(column)}`);
      if (row !== undefined && column !== undefined) parts[1] += `: ${images(countOf(now.cells, row, column))}`;
      return parts.filter(Boolean).join(', ');
    }
    if (row === undefined) return `${axes.columnWord} ${axisName(column)}: ${images(now.columnSums[column])}`;
    if (column === undefined) return `${axes.rowWord} ${axisName(row)}: ${images(now.rowSums[row])}`;
    const n = countOf(now.cells, row, column);
    const share = now.rowSums[row] ? `, ${percent(n / now.rowSums[row])} of all ${axes.rowWord} ${axisName(row)}` : '';
    return `${axisName(row)} → ${axisName(column)}: ${images(n)}${n ? share : ''}`;
  };
  return h(
    'section',
    {class: 'matrix-pane', hidden: () => !shownNow()},
    options(axes, order, find, whole, part),
    failure(cells),
    box,
    h('p', {class: 'readout', 'aria-live': 'polite'}, words),
    axes.axes
      ? null
      : h('p', {class: 'readout inline', hidden: () => !outside().length}, () =>
          outside().map(([state, n]) =>
            h(
              'button',
              {
                id: `state-${state}`,
                class: 'text',
                onclick: () => go({state: view.peek().state === state ? '' : state, true: '', pred: '', right: ''}),
              },
              `${n.toLocaleString('en')} ${state === 'failed' ? 'not readable' : 'without a label'}`,
            ),
          ),
        ),
  );
}

/**
 * @param {Axes} axes @param {Computed<number[]>} order @param {(index: number) => void} find
 * @param {() => void} whole @param {Signal<{k: number}>} part
 */
function options(axes, order, find, whole, part) {
  /** @param {string} key @param {Record<string, string>} choices @param {string} name */
  const select = (key, choices, name) =>
    h(
      'select',
      {
        'aria-label': name,
        title: name,
        value: () => view.value[key] ?? '',
        onchange: e => go({[key]: e.target.value}, true),
      },
      Object.entries(choices).map(([value, words]) => h('option', {value}, words)),
    );
  /** @param {string} key @param {string} words @param {string} on @param {string} off @param {string} title */
  const check = (key, words, on, off, title) =>
    h(
      'label',
      {title},
      h('input', {
        type: 'checkbox',
        checked: () => (view.value[key] ?? '') === on,
        onchange: e => go({[key]: e.target.checked ? on : off}, true),
      }),
      words,
    );
  const many = () => (run.value?.classes.length ?? 0) > 12;
  /** @returns {[string, string][]} */
  const which = () => [
    ['', 'all classes'],
    .../** @type {[string, string][]} */ (many() ? [10, 25, 100].map(n => [String(n), `${n} most confused`]) : []),
    ...(run.value?.levels ?? []).flatMap((one, at) =>
      one.groups.map((group, i) => /** @type {[string, string]} */ ([`g${at}.${i}`, `in ${group}`.slice(0, 100)])),
    ),
  ];
  const search = h('input', {
    type: 'search',
    placeholder: 'Find class',
    'aria-label': 'Find a class in the matrix',
    list: 'classes',
    class: 'narrow',
    hidden: () => !many() || level.value,
    onchange: e => {
      const text = e.target.value.toLowerCase();
      const names = run.peek()?.classes ?? [];
      const exact = names.findIndex(name => name.toLowerCase() === text);
      const index = exact >= 0 ? exact : names.findIndex(name => name.toLowerCase().includes(text));
      if (text && index >= 0) find(index);
    },
  });
  return h(
    'div',
    {class: 'options'},
    h(
      'select',
      {
        'aria-label': 'Classes or groups',
        title: 'Classes or groups',
        hidden: () => !run.value?.levels.length,
        onchange: e => go({level: e.target.value}, true),
      },
      () =>
        ['', ...(run.value?.levels ?? []).map(one => one.name)].map(name =>
          h('option', {value: name, selected: name === (level.value?.name ?? '')}, name ? `by ${name}` : 'by class'),
        ),
    ),
    select('order', {'': 'similar together', name: 'by name', index: 'by number'}, 'Order of classes'),
    select(
      'count',
      {'': 'counts', row: 'share of row', column: 'share of column'},
      'What the cells show',
    ),
    h(
      'select',
      {
        'aria-label': 'Which classes',
        title: 'Which classes',
        hidden: () => level.value || !(many() || run.value?.levels.length),
        onchange: e => go({most: e.target.value}, true),
      },
      () => which().map(([value, text]) => h('option', {value, selected: value === (view.value.most ?? '')}, text)),
    ),
    check('log', 'log', '1', '', 'Colours by the logarithm of the counts'),
    h('span', {hidden: () => run.value?.multi_label}, check('diagonal', 'diagonal', '', '0', 'Show the diagonal')),
    search,
    h(
      'button',
      {hidden: () => part.value.k >= order.value.length, onclick: whole, title: 'Show all classes (0)'},
      'whole',
    ),
  );
}

/** @param {Cells | null} cells @param {number} row @param {number} column */
function countOf(cells, row, column) {
  for (let i = 0; cells && i < cells.counts.length; i++)
    if (cells.rows[i] === row && cells.columns[i] === column) return cells.counts[i];
  return 0;
}
