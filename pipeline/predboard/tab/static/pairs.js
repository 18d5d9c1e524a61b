// @ts-check
/** Counts of pairs of classes, and the pairs that are confused most as a list. It knows nothing of single images. */
import {computed, h, named} from './elements.js';
import {getArray, resource} from './api.js';
import {bar} from './histogram.js';
import {className, go, pane, query, queryWithout, run, version, view} from './state.js';
import {percent} from './query.js';

const several = () => Boolean(run.value?.multi_label);

/** True class against predicted; where rows have several labels, what was missed against what was wrongly predicted.
 * @type {Axes} */
export const TRUTH = {
  get rowKey() {
    return several() ? 'missed' : 'true';
  },
  get columnKey() {
    return several() ? 'wrongly_predicted' : 'pred';
  },
  get rowWord() {
    return several() ? 'missed' : 'true';
  },
  get columnWord() {
    return several() ? 'wrong' : 'predicted';
  },
  axes: '',
  name: 'matrix',
};
/** @type {Axes} */
export const CHANGE = {
  rowKey: 'was',
  columnKey: 'pred',
  rowWord: 'before',
  columnWord: 'now',
  axes: 'old',
  name: 'changes',
};

/** Classes along an axis. */
export const classCount = () => (run.value?.classes.length ?? 0) + Number(several());

/** @param {ArrayBuffer} body @returns {Cells} */
function decode(body) {
  const all = new Int32Array(body);
  const n = all.length / 3;
  return {rows: all.subarray(0, n), columns: all.subarray(n, 2 * n), counts: all.subarray(2 * n)};
}

/** @param {string} address @param {AbortSignal} abort */
export const getCells = async (address, abort) => decode(await getArray(address, abort));

/** @param {Cells} cells @param {number} most */
function worstPairs(cells, most) {
  const {rows, columns, counts} = cells;
  const wrong = counts.filter((_, i) => rows[i] !== columns[i]).sort();
  const least = wrong[Math.max(0, wrong.length - most)]; // a million cells are not sorted by a function
  const pairs = [];
  for (let i = 0; i < counts.length; i++) if (counts[i] >= least && rows[i] !== columns[i]) pairs.push(i);
  return pairs.sort((a, b) => counts[b] - counts[a]).slice(0, most);
}

/** @param {Cells | null} cells @param {number} most */
export function mostConfused(cells, most) {
  /** @type {Set<number>} */
  const classes = new Set();
  for (const i of cells ? worstPairs(cells, 20 * most) : [])
    for (const index of [cells?.rows[i], cells?.columns[i]])
      if (index !== undefined && classes.size < most) classes.add(index);
  return classes;
}

/** @param {Cells | null} cells @param {number} n classes or groups */
export function aggregate(cells, n) {
  const [rowSums, columnSums] = [new Float64Array(n), new Float64Array(n)];
  const sums = {all: 0, right: 0, cells, rowSums, columnSums};
  for (let i = 0; cells && i < cells.counts.length; i++) {
    const [row, column, count] = [cells.rows[i], cells.columns[i], cells.counts[i]];
    rowSums[row] += count;
    columnSums[column] += count;
    sums.all += count;
    if (row === column) sums.right += count;
  }
  return sums;
}

export function pairs() {
  const shownNow = () => pane.value === 'pairs';
  const cells = resource(
    () =>
      shownNow() && query.value
        ? `confusion?${queryWithout(TRUTH.rowKey, TRUTH.columnKey)}&v=${encodeURIComponent(version.value)}`
        : '',
    getCells,
  );
  const worst = computed(() => {
    const data = cells.value.data;
    if (!data) return [];
    const {rowSums} = aggregate(data, classCount());
    return worstPairs(data, 300).map(i => ({
      row: data.rows[i],
      column: data.columns[i],
      n: data.counts[i],
      share: data.counts[i] / rowSums[data.rows[i]],
    }));
  });
  return h(
    'section',
    {class: 'pairs scroll', hidden: () => !shownNow()},
    h('ol', {class: 'bars'}, () =>
      worst.value.map(({row, column, n, share}) => {
        const {rowKey, columnKey} = TRUTH;
        const [first, second] = [row, column].map(index => String(index === run.value?.classes.length ? -1 : index));
        const on = () => view.value[rowKey] === first && view.value[columnKey] === second;
        return bar(
          `pair-${row}-${column}`,
          on,
          `${percent(share)} of ${TRUTH.rowWord} ${className(row)}`.slice(0, 300),
          () => go(on() ? {[rowKey]: '', [columnKey]: ''} : {[rowKey]: first, [columnKey]: second, right: ''}),
          [named(className(row), className(column)), ' → ', named(className(column), className(row))],
          {wrong: n / worst.value[0].n},
          n.toLocaleString('en'),
        );
      }),
    ),
    () =>
      cells.value.data && !worst.value.length
        ? h('p', {class: 'notice'}, 'No image of this selection is wrong.')
        : null,
  );
}
