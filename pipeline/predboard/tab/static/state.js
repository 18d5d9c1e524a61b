// @ts-check
/** What is looked at: one selection that every view follows, as the address does, and its rows in pages as they are
 * needed. It knows nothing of elements. */
import {computed, effect, signal, untracked} from './elements.js';
import {addressOf, onAddress, readHash, writeHash} from './host.js';
import {classesOf, isFilter, MOVES, queryText, SCORES, toggled} from './query.js';
import {getJson, isAborted, pictured, runKey} from './api.js';

/** Keys of the address that filter nothing: what is shown, then how (matrix, threshold, map). `image` is the
 * key of the image that is open, at any step of any run. */
const OTHERS = [
  'run',
  'step',
  'other',
  'sort',
  'desc',
  'image',
  'pane',
  'show',
  'order',
  'count',
  'log',
  'diagonal',
  'most',
  'level',
  'class',
  'at',
  'colour',
];

/** @param {string} key */
const known = key => isFilter(key) || OTHERS.includes(key);

/** @param {View} values @returns {View} */
function clean(values) {
  /** @type {View} */
  const view = Object.create(null); // a column may be called `constructor`
  for (const key of Object.keys(values).sort()) if (values[key] && known(key)) view[key] = values[key];
  return view;
}

/** @param {View} a @param {View} b */
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** @type {Signal<Run[] | null>} null: not yet asked */
export const runs = signal(null);
/** @type {Signal<Record<string, number>>} */
export const tagCounts = signal({});
/** Why tags cannot be written; empty if they can. */
export const readOnly = signal('');
export const writable = computed(() => !readOnly.value);
/** The folder of logs, where commands find it; empty where they cannot. */
export const logdir = signal('');
export const changes = signal(0);
export const dark = signal(false);
/** @type {Signal<View>} */
export const view = signal(Object.create(null));

/** @type {Signal<ReadonlySet<string>>} */
export const chosen = signal(new Set());
/** What was done, and the words of the button that undoes it. @type {Signal<{text: string, undo?: string} | null>} */
export const message = signal(null);

export const usable = computed(() => (runs.value ?? []).filter(run => run.kind === 'run'));
export const run = computed(() => usable.value.find(r => r.name === view.value.run) ?? usable.value.at(0));
export const step = computed(() => {
  const steps = run.value?.steps.map(String) ?? [];
  return steps.includes(view.value.step) ? view.value.step : (steps.at(-1) ?? '');
});

export const query = computed(() => (run.value ? queryText(view.value, run.value.name, step.value) : ''));

/** @param {...string} keys */
export const queryWithout = (...keys) => (run.value ? queryText(view.value, run.value.name, step.value, keys) : '');

const pictureless = computed(() => run.value !== undefined && pictured.value[runKey(run.value)] === false);

/** Whether the images are a table: where that was asked for, or where none of the pictures was found. */
export const asTable = computed(() => (view.value.show ? view.value.show === 'table' : pictureless.value));

/** @param {boolean} table */
export const showAs = table => go({show: table === pictureless.peek() ? '' : table ? 'table' : 'pictures'});

/** What makes an answer another one though its address is the same. */
export const version = computed(() => (run.value ? run.value.version : ''));

export const panes = computed(() => {
  const labelled = run.value?.labelled !== false;
  const {other} = view.value;
  const has = {'': true, pairs: labelled, changes: other, map: run.value?.has.map, columns: true, threshold: labelled};
  return Object.entries(has).flatMap(([name, offered]) => (offered ? [name] : []));
});
export const pane = computed(() => (panes.value.includes(view.value.pane) ? view.value.pane : ''));

/** Whether there are suspected labels: they are found at the last step. */
export const suspected = computed(() =>
  Boolean(run.value?.has.suspects && step.value === String(run.value.steps.at(-1))),
);

export const sort = computed(() => {
  if (view.value.sort) return view.value.sort;
  return run.value?.labelled !== false ? 'loss' : 'confidence';
});
/** Where one looks for the least first: the doubtful ones, the likeliest suspect, the first of the data. */
const ASCENDING = ['margin', 'id', 'image', 'suspect'];

export const descending = computed(() => {
  if (view.value.desc) return view.value.desc === '1';
  const by = sort.value;
  if (by === 'confidence') return run.value?.labelled !== false;
  return !ASCENDING.includes(by) && columnOf(by)?.kind !== 'category';
});

/** @param {number} index one beyond the last is that of nothing missed, or nothing wrongly predicted */
export const className = index =>
  index < 0 ? '–' : (run.value?.classes[index] ?? (run.value?.multi_label ? 'nothing' : String(index)));

/** Words for the class of a row, or for its labels. @param {Classes | undefined} of */
export const classWords = of =>
  Array.isArray(of) ? of.map(className).join(', ') || 'nothing' : className(of ?? -1);

/** @param {string} name */
export const columnOf = name => run.value?.columns.find(column => column.name === name);

export const filterable = computed(() => {
  const columns = (run.value?.columns ?? []).filter(column => column.kind !== 'text');
  const scores = SCORES.flatMap(name => columns.filter(column => column.name === name));
  return [...scores, ...columns.filter(column => !SCORES.includes(column.name))];
});

/** Change the view; empty takes a key away. Whatever filters closes the image that is open, and what another step or
 * run does not have is let go of.
 * @param {View} change @param {boolean} [quiet] no place of its own for Back to come back to */
export function go(change, quiet = false) {
  const before = view.peek();
  const next = clean({...before, ...lost(change, before), ...change});
  if (same(next, before)) return;
  view.value = next;
  writeHash(next, !quiet);
}

/** @param {View} change @param {View} before @returns {View} */
function lost(change, before) {
  /** @type {View} */
  const gone = Object.keys(change).some(isFilter) ? {image: ''} : {};
  if ('run' in change || 'step' in change)
    Object.assign(gone, {lasso: '', suspect: ''}, before.sort === 'suspect' ? {sort: ''} : {});
  const moves = Object.fromEntries(Object.keys(MOVES).map(key => [key, '']));
  const other = change.run && usable.peek().find(one => one.name === change.run);
  if (other && String(other.classes) !== String(run.peek()?.classes))
    Object.assign(gone, {true: '', pred: '', missed: '', wrongly_predicted: '', was: '', ...moves, class: ''});
  return gone;
}

/** The address of this view, with the run and the step that are shown also where the address leaves them open. */
export const link = () => addressOf({...view.peek(), run: run.peek()?.name ?? '', step: step.peek()});

export function followAddress() {
  const read = () => {
    const next = clean(readHash());
    if (!same(next, view.peek())) view.value = next;
  };
  read();
  onAddress(read);
}

const PAGE = 100;

/** Rows that a view may scroll through; elements higher than some ten million pixels fail in browsers. */
export const MOST = 100_000;

const order = computed(() => {
  if (!query.value) return '';
  const asked = new URLSearchParams(query.value);
  asked.set('sort', sort.value);
  asked.set('desc', descending.value ? '1' : '0');
  return asked.toString();
});

/** @type {Signal<string>} */
export const shownColumns = signal('');

/** Whether one true class and one predicted class are selected, so that file names alone tell the images apart. */
export const onePair = computed(() => ['true', 'pred'].every(key => classesOf(view.value[key]).length === 1));

const extra = computed(() => {
  const names = shownColumns.value ? JSON.parse(shownColumns.value) : [];
  if (onePair.value && !names.includes('image')) names.push('image');
  const sorted = sort.value;
  const own = [...SCORES.filter(name => name !== 'entropy'), 'id', 'suspect', 'old_confidence', 'image'];
  if (!own.includes(sorted) && columnOf(sorted) && !names.includes(sorted)) names.push(sorted);
  return names.join(',');
});

/** @type {Signal<{order: string, total: number, pages: ReadonlyMap<number, Row[]>, stale: boolean, error: string}>} */
export const list = signal({order: '', total: 0, pages: new Map(), stale: true, error: ''});

let abort = new AbortController();
/** @type {Set<number>} */
let going = new Set();

export function followSelection() {
  let last = '';
  effect(() => {
    const now = order.value;
    void [extra.value, version.value, changes.value];
    abort.abort();
    abort = new AbortController();
    going = new Set();
    if (!now) {
      list.value = {order: '', total: 0, pages: new Map(), stale: false, error: ''};
      return;
    }
    const again = now === last;
    last = now;
    list.value = {...list.peek(), stale: !again};
    const pages = again ? [...list.peek().pages.keys()] : [0];
    for (const page of pages.length ? pages : [0]) untracked(() => load(page, now));
  });
  effect(() => {
    void [query.value, version.value];
    chosen.value = new Set();
  });
}

/** @param {number} page @param {string} of */
async function load(page, of) {
  if (going.has(page)) return;
  going.add(page);
  const {signal: stop} = abort;
  const asked = new URLSearchParams(of);
  asked.set('offset', String(page * PAGE));
  asked.set('limit', String(PAGE));
  if (extra.peek()) asked.set('columns', extra.peek());
  try {
    const answer = await getJson(`rows?${asked}`, stop);
    if (stop.aborted) return;
    const before = list.peek();
    // Rows that are fewer or more than before, as when a tag was taken off, are no longer where they were.
    const pages = new Map(before.order === of && before.total === answer.total ? before.pages : []);
    pages.set(page, answer.rows);
    list.value = {order: of, total: answer.total, pages, stale: false, error: ''};
  } catch (error) {
    if (isAborted(error) || stop.aborted) return;
    going.delete(page);
    const {message: sentence} = /** @type {Error} */ (error);
    if (page === 0) list.value = {order: of, total: 0, pages: new Map(), stale: false, error: sentence};
    else message.value = {text: sentence};
  }
}

/** Wait until the rows of the selection are there, which come first.
 * @param {string} address @param {AbortSignal} abort @returns {Promise<any>} its answer */
export async function getLater(address, abort) {
  await new Promise(ready =>
    effect(() => {
      if (!list.value.stale) ready(null);
    }),
  );
  return getJson(address, abort);
}

/** @param {number} first @param {number} end */
export function need(first, end) {
  const {order: of, pages, total} = list.peek();
  if (!of || of !== order.peek()) return;
  for (let page = Math.floor(first / PAGE); page * PAGE < Math.min(end, total); page++)
    if (page >= 0 && !pages.has(page)) load(page, of);
}

/** @param {number} index @returns {Row | undefined} */
export const rowAt = index => list.value.pages.get(Math.floor(index / PAGE))?.[index % PAGE];

/** @param {string} key */
export function indexOf(key) {
  for (const [page, rows] of list.value.pages) {
    const at = rows.findIndex(row => row.key === key);
    if (at >= 0) return page * PAGE + at;
  }
  return -1;
}

export const openIndex = computed(() => (view.value.image ? indexOf(view.value.image) : -1));

export const shownTotal = computed(() => Math.min(list.value.total, MOST));

export const cursor = signal(0);

/** @param {number} from @param {number} to */
export function chooseRange(from, to) {
  const keys = new Set(chosen.peek());
  for (let i = Math.min(from, to); i <= Math.max(from, to); i++) {
    const row = rowAt(i);
    if (row) keys.add(row.key);
  }
  chosen.value = keys;
}

/** @param {string} key */
export function choose(key) {
  chosen.value = new Set(toggled([...chosen.peek()], key));
}
