// @ts-check
/** How a column is spread over the selection; dragging filters. It knows nothing of rows. */
import {colour, computed, effect, h, named, prepare, signal, sizeOf} from './elements.js';
import {failure, resource} from './api.js';
import {className, dark, filterable, getLater, go, pane, queryWithout, run, version, view} from './state.js';
import {
  formatRange,
  formatValues,
  images,
  keyOf,
  parseRange,
  parseValues,
  percent,
  SCORES,
  short,
  toggled,
} from './query.js';

const BINS = 50;

/** @param {Column} column @param {() => boolean} shown @param {string} [key] */
function addressOf(column, shown, key = keyOf(column)) {
  return () => {
    if (!shown()) return '';
    const asked = queryWithout(key);
    return asked && `hist?${asked}&${new URLSearchParams({column: column.name, bins: String(BINS), v: version.value})}`;
  };
}

/** @param {Column} column @param {() => boolean} shown */
function histogram(column, shown) {
  const key = keyOf(column);
  const spread = resource(
    addressOf(column, shown),
    /** @type {(a: string, s: AbortSignal) => Promise<Spread>} */ (getLater),
  );
  const range = computed(() => parseRange(view.value[key] ?? ''));
  const dragged = signal(/** @type {[number, number] | null} */ (null));
  const hovered = signal(-1);
  const canvas = h('canvas', {
    class: 'hist',
    'aria-hidden': 'true',
    onpointerdown: e => {
      if (e.button || !spread.peek().data) return;
      canvas.setPointerCapture(e.pointerId);
      dragged.value = [valueAt(e), valueAt(e)];
    },
    onpointermove: e => {
      if (dragged.peek()) dragged.value = [/** @type {any} */ (dragged.peek())[0], valueAt(e)];
      const data = spread.peek().data;
      hovered.value = data
        ? Math.max(0, Math.min(data.right.length - 1, Math.floor((e.offsetX / canvas.clientWidth) * data.right.length)))
        : -1;
    },
    onpointerup: () => {
      const [from, to] = dragged.peek() ?? [NaN, NaN];
      dragged.value = null;
      if (!Number.isFinite(from)) return;
      const moved = Math.abs(to - from) * canvas.clientWidth > 3 * (spanOf() || 1);
      go({[key]: moved ? rounded(Math.min(from, to), Math.max(from, to)) : ''});
    },
    onpointerleave: () => {
      hovered.value = -1;
    },
  });
  const size = sizeOf(canvas);
  const spanOf = () => {
    const data = spread.peek().data;
    return data ? data.hi - data.lo : 0;
  };
  /** @param {PointerEvent} e */
  function valueAt(e) {
    const data = /** @type {Spread} */ (spread.peek().data);
    const share = Math.max(0, Math.min(1, e.offsetX / canvas.clientWidth));
    return data.lo + share * (data.hi - data.lo);
  }
  /** At an end of the axis the range stays open; values between have no more digits than the pixels are worth.
   * @param {number} lo @param {number} hi */
  function rounded(lo, hi) {
    const data = /** @type {Spread} */ (spread.peek().data);
    const digits = Math.max(0, Math.min(12, Math.ceil(2.5 - Math.log10(Math.max(data.hi - data.lo, 1e-9)))));
    const near = (data.hi - data.lo) / (canvas.clientWidth || 200);
    return formatRange(
      lo <= data.lo + near ? null : Number(lo.toFixed(digits)),
      hi >= data.hi - near ? null : Number(hi.toFixed(digits)),
    );
  }
  effect(() => {
    const data = spread.value.data;
    if (data && size.value.width) draw(canvas, data, dragged.value ?? range.value, size.value, dark.value);
  });
  /** @param {0 | 1} end @param {string} name */
  const field = (end, name) =>
    h('input', {
      class: 'number-field',
      'aria-label': `${column.name} ${name}`,
      inputmode: 'decimal',
      placeholder: () => short(end ? spread.value.data?.hi : spread.value.data?.lo),
      value: () => range.value[end] ?? '',
      onchange: e => {
        const next = [...range.peek()];
        const typed = Number.parseFloat(e.target.value);
        next[end] = Number.isFinite(typed) ? typed : null;
        go({[key]: formatRange(next[0], next[1])});
      },
    });
  const readout = () => {
    const [data, at] = [spread.value.data, hovered.value];
    if (!data || at < 0) return h('bdi', {class: 'clip'}, column.name);
    const each = (data.hi - data.lo) / data.right.length;
    const parts = [`${data.right[at].toLocaleString('en')} right`, `${data.wrong[at].toLocaleString('en')} wrong`];
    if (data.unlabelled[at]) parts.push(`${data.unlabelled[at].toLocaleString('en')} unlabelled`);
    return h(
      'span',
      {class: 'clip'},
      `${short(data.lo + at * each)} to ${short(data.lo + (at + 1) * each)}: ${parts.join(', ')}`,
    );
  };
  return h(
    'figure',
    {
      class: 'histogram',
      'aria-label': column.name,
      'data-set': () => Boolean(view.value[key]),
      'data-stale': () => spread.value.stale,
    },
    h('figcaption', null, h('span', {class: 'grow clip'}, readout), field(0, 'from'), '–', field(1, 'to')),
    canvas,
  );
}

/** Bars from below: wrong, right, without a label; behind them in grey what the filters leave out. Heights grow by the
 * square root, or the few wrong ones would not be seen beside the many right ones. @type {DrawSpread} */
const draw = (canvas, data, range, {width, height: all}, _theme) => {
  const g = prepare(canvas, width, all);
  const bins = data.right.length;
  const sums = data.right.map((n, i) => n + data.wrong[i] + data.unlabelled[i]);
  const most = Math.max(1, ...sums.map((n, i) => n + data.rest[i]));
  const height = (/** @type {number} */ n) => Math.sqrt(n / most) * (all - 2);
  const each = width / bins;
  for (let i = 0; i < bins; i++) {
    const [left, across] = [i * each, Math.max(1, each - (each > 4 ? 1 : 0))];
    const behind = height(sums[i] + data.rest[i]);
    g.fillStyle = colour('--rest');
    g.fillRect(left, all - behind, across, behind);
    let bottom = all;
    const full = sums[i] ? Math.max(height(sums[i]), 1) : 0;
    for (const [n, kind] of /** @type {[number, string][]} */ ([
      [data.wrong[i], '--wrong'],
      [data.right[i], '--right'],
      [data.unlabelled[i], '--unknown'],
    ])) {
      if (!n) continue;
      const tall = (full * n) / sums[i];
      g.fillStyle = colour(kind);
      g.fillRect(left, bottom - tall, across, tall);
      bottom -= tall;
    }
  }
  const place = (/** @type {number | null} */ v, /** @type {number} */ open) =>
    v === null ? open : ((v - data.lo) / (data.hi - data.lo || 1)) * width;
  if (range[0] === null && range[1] === null) return;
  const [a, b] = [place(range[0], 0), place(range[1], width)];
  g.globalAlpha = 0.55;
  g.fillStyle = colour('--paper');
  g.fillRect(0, 0, Math.min(a, b), all);
  g.fillRect(Math.max(a, b), 0, width, all);
  g.globalAlpha = 1;
  g.fillStyle = colour('--ink');
  for (const x of [a, b]) g.fillRect(Math.max(0, Math.min(width - 1.5, x - 0.75)), 0, 1.5, all);
};

/** @type {Bar} */
export const bar = (id, on, title, act, name, parts, number) =>
  h(
    'li',
    null,
    h(
      'button',
      {id, class: 'bar-row', 'aria-pressed': on, title, onclick: act},
      h('span', {class: 'clip'}, name),
      h(
        'span',
        {class: 'track'},
        Object.entries(parts).map(([kind, share]) =>
          h('span', {class: `fill ${kind}`, style: {width: `${100 * share}%`}}),
        ),
      ),
      h('span', {class: 'number'}, number),
    ),
  );

/** @param {string} key @param {string} words @param {() => boolean} shown */
const labels = (key, words, shown) => category({name: CLASS_KEYS[key], kind: 'category'}, shown, key, words);

/** @param {Column} column @param {() => boolean} shown @param {string} [key] @param {string} [title] */
function category(column, shown, key = keyOf(column), title = column.name) {
  const ofClass = key in CLASS_KEYS;
  const counts = resource(addressOf(column, shown, key), getLater);
  /** @param {string | null} value */
  const words = value => (value === null ? 'none' : ofClass ? className(Number(value)) : value);
  const isOn = (/** @type {string | null} */ value) => valuesOf(key).includes(value);
  const rows = computed(() => {
    const data = counts.value.data;
    /** @type {(string | null)[]} */
    const values = data
      ? (data.values ?? data.right.map((/** @type {number} */ _, /** @type {number} */ i) => String(i)))
      : [];
    return values
      .map((value, i) => {
        const [right, wrong, rest] = [data.right[i], data.wrong[i], data.unlabelled[i]];
        return {value, right, wrong, rest, all: right + wrong + rest};
      })
      .filter(row => row.all || isOn(row.value))
      .sort((a, b) => b.wrong / (b.all || 1) - a.wrong / (a.all || 1) || b.all - a.all);
  });
  return h(
    'figure',
    {class: 'category', 'aria-label': title, 'data-stale': () => counts.value.stale},
    h('figcaption', null, h('bdi', {class: 'clip'}, title)),
    failure(counts),
    h('ol', {class: 'bars'}, () => {
      const most = Math.max(1, ...rows.value.map(row => row.all));
      return rows.value.slice(0, 200).map(({value, right, wrong, rest, all}) =>
        bar(
          `value-${key}-${value}`,
          () => isOn(value),
          `${images(all)}, ${images(wrong)} wrong`,
          e =>
            go({
              [key]:
                e.ctrlKey || e.metaKey || e.shiftKey
                  ? listOf(key, toggled(valuesOf(key), value))
                  : isOn(value)
                    ? ''
                    : listOf(key, [value]),
            }),
          named(words(value)),
          {wrong: wrong / most, right: right / most, plain: rest / most},
          right + wrong ? percent(wrong / (right + wrong)) : all.toLocaleString('en'),
        ),
      );
    }),
  );
}

/** What the columns of classes are called, by the keys of their filters. @type {Record<string, string>} */
const CLASS_KEYS = {true: 'label', pred: 'predicted'};

/** @param {string} key */
const valuesOf = key => parseValues(key in CLASS_KEYS ? view.value[key]?.replaceAll(',', '|') : view.value[key]);

/** @param {string} key @param {(string | null)[]} values */
const listOf = (key, values) => (key in CLASS_KEYS ? values.join() : formatValues(values));

/** What was predicted, where there is no label to hold it against. */
export function predicted() {
  const shown = () => !pane.value && run.value?.labelled === false;
  return h(
    'section',
    {class: 'columns scroll', hidden: () => !shown()},
    labels('pred', 'predicted', shown),
  );
}

export function scores() {
  const names = computed(() =>
    filterable.value
      .filter(column => SCORES.includes(column.name))
      .map(column => column.name)
      .join(),
  );
  return h(
    'section',
    {class: 'histograms', 'aria-label': 'scores'},
    () =>
      names.value &&
      filterable
        .peek()
        .filter(column => SCORES.includes(column.name))
        .map(column => histogram(column, () => true)),
  );
}

export function columnsPane() {
  const shown = () => pane.value === 'columns';
  const rest = computed(() => filterable.value.filter(column => !SCORES.includes(column.name)));
  const names = computed(() => JSON.stringify(rest.value.map(column => [column.name, column.kind])));
  return h(
    'section',
    {class: 'columns scroll', hidden: () => !shown()},
    h(
      'p',
      {class: 'faint'},
      'Drag over a histogram, or click a value; with Shift several. Shares are of wrong images.',
    ),
    () => run.value?.multi_label && [labels('true', 'true labels', shown), labels('pred', 'predicted labels', shown)],
    () => {
      void names.value;
      return rest.peek().map(column => {
        if (column.kind === 'category') return category(column, shown);
        if (column.lo === column.hi)
          return h('p', {class: 'faint'}, h('bdi', null, column.name), `: ${short(column.lo)} for all`);
        return histogram(column, shown);
      });
    },
    () => (rest.value.length ? null : h('p', {class: 'notice'}, 'The rows have no further columns.')),
  );
}
