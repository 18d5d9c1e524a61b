// @ts-check
/** The words and numbers of a query: ranges, lists, chips. It knows neither the page nor the server. */

export const SCORES = ['confidence', 'loss', 'margin', 'entropy'];

/** How decisions about one of several labels changed, the good ones first. @type {Record<string, string>} */
export const MOVES = {
  gained: 'missed before, predicted now',
  dropped: 'wrongly predicted before, not now',
  lost: 'predicted before, missed now',
  added: 'wrongly predicted now, not before',
};

/** Filters that need a comparison. */
export const COMPARED = ['kind', 'was', ...Object.keys(MOVES)];

/** What takes the comparison away. @type {View} */
export const uncompared = Object.fromEntries(['other', ...COMPARED].map(key => [key, '']));

/** Filters in the order of their chips. `other` alone filters nothing. */
const FILTERS = [
  'true',
  'pred',
  'missed',
  'wrongly_predicted',
  'right',
  'state',
  'kind',
  'was',
  ...Object.keys(MOVES),
  ...SCORES,
  'q',
  'tag',
  'suspect',
  'lasso',
];

/** @param {string} key */
export const isFilter = key => FILTERS.includes(key) || /^[sn]\../s.test(key);

/** @param {View} view */
export function filtersOf(view) {
  const own = FILTERS.filter(key => view[key]);
  return [
    ...own,
    ...Object.keys(view)
      .filter(key => view[key] && isFilter(key) && !FILTERS.includes(key))
      .sort(),
  ];
}

/** @param {View} view @returns {View} */
export const cleared = view => Object.fromEntries(filtersOf(view).map(key => [key, '']));

/** @param {Column} column */
export function keyOf(column) {
  if (SCORES.includes(column.name)) return column.name;
  return `${column.kind === 'category' ? 's' : 'n'}.${column.name}`;
}

/** @param {View} view @param {string} run @param {string} step @param {string[]} [without] keys to leave out */
export function queryText(view, run, step, without = []) {
  const query = new URLSearchParams({run, step});
  if (view.other) query.set('other', view.other);
  for (const key of filtersOf(view)) if (!without.includes(key)) query.set(key, view[key]);
  return query.toString();
}

/** @param {string} text such as `.5..` @returns {[number | null, number | null]} */
export function parseRange(text) {
  const [lo, hi] = text.split('..');
  return [numberOf(lo), numberOf(hi ?? '')];
}

/** @param {string} text @returns {number | null} */
function numberOf(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : null;
}

/** @param {number | null} lo @param {number | null} hi */
export const formatRange = (lo, hi) => (lo === null && hi === null ? '' : `${lo ?? ''}..${hi ?? ''}`);

/** @param {string} text */
export function rangeWords(text) {
  const [lo, hi] = parseRange(text);
  if (lo === null) return hi === null ? text : `≤ ${short(hi)}`;
  return hi === null ? `≥ ${short(lo)}` : `${short(lo)} to ${short(hi)}`;
}

/** @param {string | undefined} text @returns {number[]} */
export const classesOf = text => (text ? text.split(',').map(Number).filter(Number.isInteger) : []);

const NONE = '\\N';

/** Values of a category, of which any may hold a bar; null is no value. @param {string | undefined} text
 * @returns {(string | null)[]} */
export function parseValues(text) {
  if (!text) return [];
  const parts = [...`|${text}`.matchAll(/\|((?:\\.|[^\\|])*)/gs)].map(([, part]) => part);
  return parts.map(part => (part === NONE ? null : part.replace(/\\(.)/gs, '$1')));
}

/** @param {(string | null)[]} values */
export const formatValues = values => values.map(v => (v === null ? NONE : v.replace(/[\\|]/g, '\\$&'))).join('|');

/** @template T @param {readonly T[]} values @param {T} value */
export const toggled = (values, value) =>
  values.includes(value) ? values.filter(v => v !== value) : [...values, value];

/** @param {number | null | undefined} value */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size >= 1000 || Number.isInteger(value)) {
    const whole = Math.round(value);
    return size < 10_000 ? String(whole) : whole.toLocaleString('en'); // 2026 may be a year
  }
  if (size < 1e-4) return value.toExponential(0);
  return String(Number(value.toPrecision(3)));
}

/** A share; never 100 % unless it is all, nor 0 % unless it is none. @param {number | null | undefined} value */
export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  if (value > 0.9995 && value < 1) return '> 99.9 %';
  if (value > 0 && value < 0.0005) return '< 0.1 %';
  return `${(100 * value).toFixed(1)} %`;
}

/** @param {number} count */
export const images = count => `${count.toLocaleString('en')} ${count === 1 ? 'image' : 'images'}`;

/** @type {Record<string, [string, string]>} */
export const KINDS = {
  fixed: ['fixed', 'wrong before, right now'],
  broken: ['broken', 'right before, wrong now'],
  changed: ['changed', 'another prediction than before'],
  changed_wrong: ['wrong differently', 'wrong before and now, as different classes'],
  both_wrong: ['wrong the same', 'wrong before and now, as the same class'],
  same: ['same', 'the same prediction as before'],
  labels_differ: ['labels differ', 'the two have different labels for the image'],
  only: ['only here', 'not among the images it is compared with'],
};

const STATES = {failed: 'not readable', unlabelled: 'no label', labelled: 'labelled'};

/** @template T @param {Record<string, T>} table @param {string} key @returns {T | undefined} */
const own = (table, key) => (Object.hasOwn(table, key) ? table[key] : undefined);

/** @param {string} text @param {number} most */
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** A long name in two parts, the end of which is always shown: from where it differs from another, if that is near.
 * @param {string} name @param {string} [other] @returns {[string, string]} the second part is empty of a short name */
export function apart(name, other = name) {
  if (name.length <= 14) return [name, ''];
  let at = 0;
  while (at < name.length && name[at] === other[at]) at++;
  const last = name.length - 6;
  at = at < name.length - 12 ? last : Math.min(at - 1, last);
  while (at && /\p{M}|[\uDC00-\uDFFF]/u.test(name[at])) at--; // no character is cut
  return [name.slice(0, at), name.slice(at)];
}

/** @param {string} text @param {(index: number) => string} name */
function classWords(text, name) {
  const names = classesOf(text).map(index => {
    const [head, tail] = apart(name(index));
    return cut(head, 20) + tail;
  });
  return names.length > 3 ? `${names.slice(0, 2).join(', ')} and ${names.length - 2} more` : names.join(', ');
}

/** @param {string} key @param {View} view @param {(index: number) => string} name */
export function chipWords(key, view, name) {
  const value = view[key];
  if (key === 'true') return value === '-1' ? 'no label' : `true: ${classWords(value, name)}`;
  if (key === 'pred') return value === '-1' ? 'no prediction' : `predicted: ${classWords(value, name)}`;
  if (key === 'missed' || key === 'wrongly_predicted')
    return `${key.replace('_', ' ')}: ${value === '-1' ? 'nothing' : classWords(value, name)}`;
  if (key in MOVES) return `${key}: ${classWords(value, name)}`;
  if (key === 'was') return `before: ${classWords(value, name)}`;
  if (key === 'right') return value === '1' ? 'right' : 'wrong';
  if (key === 'state') return own(STATES, value) ?? value;
  if (key === 'kind') return (own(KINDS, value) ?? [value])[0];
  if (key === 'suspect') return 'label is suspected';
  if (key === 'lasso') return 'region of the map';
  if (key === 'tag') return value === '!' ? 'no tag' : `tag: ${value.split(',').join(' or ')}`;
  if (key === 'q') return `path has “${cut(value, 40)}”`;
  if (key.startsWith('s.')) {
    const words = parseValues(value).map(v => (v === null ? 'none' : cut(v, 30)));
    const more = words.length > 3 ? ` or ${words.length - 3} more` : '';
    return `${cut(key.slice(2), 30)}: ${words.slice(0, 3).join(' or ')}${more}`;
  }
  return `${cut(key.replace(/^n\./, ''), 30)} ${rangeWords(value)}`;
}

/** @param {View} view @param {string[]} without @param {(index: number) => string} name */
export function filterWords(view, without, name) {
  const words = filtersOf(view).flatMap(key => (without.includes(key) ? [] : [chipWords(key, view, name)]));
  return words.length ? ` (${words.join('; ')})` : '';
}
