// @ts-check
/** Groups of classes, where `visualize` was told of some: what the matrix counts by. It knows nothing of how it is
 * drawn. */
import {computed} from './elements.js';
import {className, run, view} from './state.js';
import {classCount} from './pairs.js';

/** The level by which the matrix is grouped; null if it has classes. */
export const level = computed(() => run.value?.levels.find(one => one.name === view.value.level) ?? null);

/** Rows and columns of the matrix, before any is left out. */
export const axisCount = () => level.value?.groups.length ?? classCount();

/** @param {number} index of a group or of a class */
export const axisName = index => (level.value ? level.value.groups[index] : className(index));

/** Classes of a group. @param {Level} of @param {number} index @returns {number[]} */
export const members = (of, index) => of.group_of.flatMap((group, at) => (group === index ? [at] : []));

/** The same counts by groups. @param {Cells | null} cells @returns {Cells | null} */
export function grouped(cells) {
  const now = level.value;
  if (!now || !cells) return cells;
  /** @type {Map<number, number>} */
  const sums = new Map();
  const n = now.groups.length;
  cells.counts.forEach((count, i) => {
    const at = now.group_of[cells.rows[i]] * n + now.group_of[cells.columns[i]];
    sums.set(at, (sums.get(at) ?? 0) + count);
  });
  const places = [...sums.keys()];
  return {
    rows: Int32Array.from(places, at => Math.floor(at / n)),
    columns: Int32Array.from(places, at => at % n),
    counts: Int32Array.from(sums.values()),
  };
}

/** Groups in the order of their classes: by the mean of the places of these. @param {number[]} classes in order */
export function groupOrder(classes) {
  const now = level.value;
  if (!now) return classes;
  const [sum, n] = [now.groups.map(() => 0), now.groups.map(() => 0)];
  classes.forEach((index, at) => {
    sum[now.group_of[index]] += at;
    n[now.group_of[index]]++;
  });
  return now.groups.map((_, index) => index).sort((a, b) => sum[a] / n[a] - sum[b] / n[b]);
}

/** The groups all of whose classes are among some. @param {number[]} classes */
export function groupsOf(classes) {
  const now = level.value;
  if (!now) return classes;
  const rest = new Set(now.groups.keys());
  now.group_of.forEach((group, at) => {
    if (!classes.includes(at)) rest.delete(group);
  });
  return [...rest];
}

/** Name of the group that has exactly some classes; empty if none has. @param {number[]} classes */
export function groupWith(classes) {
  for (const of of run.value?.levels ?? [])
    for (let index = 0; classes.length > 1 && index < of.groups.length; index++)
      if (String(members(of, index)) === String(classes)) return of.groups[index];
  return '';
}
