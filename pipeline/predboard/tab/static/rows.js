// @ts-check
/** The rows of the selection in their order, in pages as they are needed. It knows nothing of how they are shown. */
import {computed, effect, signal, untracked} from './elements.js';
import {getJson, isAborted} from './api.js';
import {changes, chosen, columnOf, descending, message, query, sort, version, view} from './state.js';
import {SCORES, toggled} from './query.js';

const PAGE = 100;

/** Rows that a view may scroll through; elements higher than some ten million pixels fail in browsers. */
export const MOST = 100_000;

/** What the pages are of; another one empties them. */
const order = computed(() => {
  if (!query.value) return '';
  const asked = new URLSearchParams(query.value);
  asked.set('sort', sort.value);
  asked.set('desc', descending.value ? '1' : '0');
  return asked.toString();
});

/** Columns that the captions or the table show beyond the scores. @type {Signal<string>} */
export const shownColumns = signal('');

const extra = computed(() => {
  const names = shownColumns.value ? JSON.parse(shownColumns.value) : [];
  const sorted = sort.value;
  const own = [...SCORES.filter(name => name !== 'entropy'), 'id', 'suspect', 'old_confidence', 'image', 'similarity'];
  if (!own.includes(sorted) && columnOf(sorted) && !names.includes(sorted)) names.push(sorted);
  return names.join(',');
});

/** @type {Signal<{order: string, total: number, pages: ReadonlyMap<number, Row[]>, stale: boolean, error: string}>} */
export const list = signal({order: '', total: 0, pages: new Map(), stale: true, error: ''});

let abort = new AbortController();
/** @type {Set<number>} */
let going = new Set();

/** Start over when the selection or its order is another one. */
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

/** Get the pages of these rows, if they are not there yet. @param {number} first @param {number} end */
export function need(first, end) {
  const {order: of, pages, total} = list.peek();
  if (!of || of !== order.peek()) return;
  for (let page = Math.floor(first / PAGE); page * PAGE < Math.min(end, total); page++)
    if (page >= 0 && !pages.has(page)) load(page, of);
}

/** @param {number} index @returns {Row | undefined} */
export const rowAt = index => list.value.pages.get(Math.floor(index / PAGE))?.[index % PAGE];

/** The place of an image among the rows that are loaded; -1 if it is not. @param {string} key */
export function indexOf(key) {
  for (const [page, rows] of list.value.pages) {
    const at = rows.findIndex(row => row.key === key);
    if (at >= 0) return page * PAGE + at;
  }
  return -1;
}

/** The place of the image that is open. */
export const openIndex = computed(() => (view.value.image ? indexOf(view.value.image) : -1));

export const shownTotal = computed(() => Math.min(list.value.total, MOST));

/** The row that was last opened or reached by keys. */
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
