// @ts-check
/** A selection as a command that makes it again in a terminal. It knows neither the page nor the server. */
import {classesOf, filtersOf, MOVES, parseValues, SCORES} from './query.js';

/** @type {Record<string, string>} */
const CLASSES = {true: 'true', pred: 'predicted', missed: 'missed', wrongly_predicted: 'wrongly-predicted'};
for (const key of ['was', ...Object.keys(MOVES)]) CLASSES[key] = key;

/** What a flag takes as it is. @type {Record<string, string>} */
const SAME = {state: 'state', kind: 'kind', q: 'text', tag: 'tag'};
for (const name of SCORES) SAME[name] = name;

/** A word as a shell takes it. @param {string} word */
const quoted = word => (/^[\w.,@:=/+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** Flags of a filter, or its part of the flag `where`; null where no flag says it. Classes go by name: a number may be
 * the name of another.
 * @param {string} key @param {string} value @param {string[]} classes @returns {string[] | null} */
function flagsOf(key, value, classes) {
  if (CLASSES[key]) {
    const names = classesOf(value).map(index => classes[index] ?? '-1');
    return names.length > 1 && names.some(name => name.includes(',')) ? null : [`--${CLASSES[key]}=${names.join()}`];
  }
  if (key === 'right') return [value === '1' ? '--right' : '--wrong'];
  if (key === 'suspect') return ['--suspects'];
  if (Object.hasOwn(SAME, key)) return [`--${SAME[key]}=${value}`];
  if (!/^[sn]\./.test(key)) return null; // a region of the map
  const column = key.slice(2);
  const wanted = key[0] === 'n' ? [value] : parseValues(value).map(one => one ?? '');
  if (/[,=]/.test(column) || wanted.some(one => one.includes(','))) return null;
  return wanted.map(one => `${column}=${one}`);
}

/** The command for what a view shows; empty where it cannot be said.
 * @param {View} view @param {string} folder of the run's logs @param {string[]} classes @param {string} step
 * @param {string} sort @param {boolean} descending */
export function commandOf(view, folder, classes, step, sort, descending) {
  const words = ['predboard', 'rows', folder, `--step=${step}`];
  if (view.other) words.push(`--other=${view.other}`);
  /** @type {string[]} */
  const where = [];
  for (const key of filtersOf(view)) {
    const flags = flagsOf(key, view[key], classes);
    if (!flags) return '';
    (/^[sn]\./.test(key) ? where : words).push(...flags);
  }
  if (where.length) words.push(`--where=${where.join()}`); // of a flag that is given twice the last one counts
  words.push(`--sort=${sort}`, ...(descending ? [] : ['--ascending']));
  return words.map(quoted).join(' ');
}
