// @ts-check
/** What is looked at: one selection that every view follows, as the address does. It knows nothing of elements. */
import {computed, signal} from './elements.js';
import {addressOf, onAddress, readHash, writeHash} from './host.js';
import {isFilter, queryText, SCORES} from './query.js';

/** Keys of the address that filter nothing. `image` is the key of the image that is open, at any step of any run. */
const OTHERS = [
  'run',
  'step',
  'other',
  'sort',
  'desc',
  'image',
  'pane',
  'show', // what is shown
  'order',
  'count',
  'log',
  'diagonal',
  'most',
  'class',
  'at',
  'colour', // how: matrix, threshold, map
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
export const writable = signal(false);
/** Goes up when tags have changed, which the pages of rows show. */
export const changes = signal(0);
export const dark = signal(false);
/** @type {Signal<View>} */
export const view = signal(Object.create(null));

/** The rows chosen by hand, by key. @type {Signal<ReadonlySet<string>>} */
export const chosen = signal(new Set());
/** A sentence for the line at the bottom. @type {Signal<{text: string, undo?: boolean} | null>} */
export const message = signal(null);

export const usable = computed(() => (runs.value ?? []).filter(run => run.kind === 'run'));
export const run = computed(() => usable.value.find(r => r.name === view.value.run) ?? usable.value.at(0));
export const step = computed(() => {
  const steps = run.value?.steps.map(String) ?? [];
  return steps.includes(view.value.step) ? view.value.step : (steps.at(-1) ?? '');
});

/** The query of the selection; empty while there is no run. */
export const query = computed(() => (run.value ? queryText(view.value, run.value.name, step.value) : ''));

/** @param {...string} keys */
export const queryWithout = (...keys) => (run.value ? queryText(view.value, run.value.name, step.value, keys) : '');

/** What makes an answer another one though its address is the same. */
export const version = computed(() => (run.value ? run.value.version : ''));

/** The views at the left that the run, or the comparison, has. */
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

/** @param {number} index */
export const className = index => (index < 0 ? '–' : (run.value?.classes[index] ?? String(index)));

/** @param {string} name */
export const columnOf = name => run.value?.columns.find(column => column.name === name);

/** Columns by which one may filter, the scores first. */
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
  const other = change.run && usable.peek().find(one => one.name === change.run);
  if (other && String(other.classes) !== String(run.peek()?.classes))
    Object.assign(gone, {true: '', pred: '', was: '', class: ''});
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
