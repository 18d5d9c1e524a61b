// @ts-check
/** What changed since another step: counts of the selection, each a filter; where images have several labels, also of
 * each label. It knows nothing of single images. */
import {computed, h, named} from './elements.js';
import {getJson, resource} from './api.js';
import {className, go, pane, query, queryWithout, run, version, view} from './state.js';
import {COMPARED, filterWords, images, KINDS, MOVES} from './query.js';

/** What changed since the step that is compared with, above all views, and the pane that has it by label. */
export function comparison() {
  const counts = resource(
    () =>
      view.value.other && query.value
        ? `compare?${queryWithout(...COMPARED)}&v=${encodeURIComponent(version.value)}`
        : '',
    getJson,
  );
  return {line: line(counts), pane: byLabel(counts)};
}

/** @param {Signal<Resource<any>>} counts */
function line(counts) {
  return h('div', {class: 'bar kinds', hidden: () => !view.value.other, 'data-stale': () => counts.value.stale}, () => {
    const {data, error} = counts.value;
    if (error) return h('p', {class: 'notice'}, error);
    if (!data) return h('span', {class: 'faint'}, 'Comparing…');
    if (!data.joined_by) return h('p', {class: 'notice'}, data.sentence);
    return [
      h(
        'span',
        {class: 'faint'},
        `${images(data.both)}${filterWords(view.value, COMPARED, className)} in both`,
        /name/.test(data.joined_by) ? '' : `, by ${data.joined_by}`,
        ':',
      ),
      Object.entries(KINDS)
        .filter(([kind]) => data.kinds[kind] || ['fixed', 'broken'].includes(kind))
        .map(([kind, [words, title]]) =>
          h(
            'button',
            {
              id: `kind-${kind}`,
              class: kind === 'fixed' ? 'right' : kind === 'broken' ? 'wrong' : '',
              title,
              'aria-pressed': () => view.value.kind === kind,
              onclick: () => go({kind: view.peek().kind === kind ? '' : kind}),
            },
            words,
            ' ',
            h('span', {class: 'number'}, data.kinds[kind].toLocaleString('en')),
          ),
        ),
    ];
  });
}

const SHOWN = 300;

/** @param {Signal<Resource<any>>} counts */
function byLabel(counts) {
  const shown = () => pane.value === 'changes' && Boolean(run.value?.multi_label);
  const rows = computed(() => {
    /** @type {Record<string, number[]>} */
    const labels = (shown() && counts.value.data?.labels) || {};
    const all = (labels.lost ?? []).map((_, label) => {
      const numbers = Object.keys(MOVES).map(move => labels[move][label]);
      return {label, numbers, sum: numbers.reduce((a, b) => a + b)};
    });
    return all.filter(row => row.sum).sort((a, b) => b.sum - a.sum);
  });
  /** @param {number} at @param {string} move @param {number} label @param {number} number */
  const count = (at, move, label, number) => {
    const on = () => view.value[move] === String(label);
    return h(
      'button',
      {
        id: `${move}-${label}`,
        class: `number ${at < 2 ? 'right' : 'wrong'}`,
        title: `${className(label).slice(0, 300)}: ${MOVES[move]}`,
        'aria-label': `${move}, ${className(label).slice(0, 300)}: ${images(number)}`,
        'aria-pressed': on,
        onclick: () => go({[move]: on() ? '' : String(label)}),
      },
      number.toLocaleString('en'),
    );
  };
  return h(
    'section',
    {class: 'threshold scroll', hidden: () => !shown()},
    h('p', {class: 'faint'}, 'Images in which the decision about a label changed: fixed at the left, broken right.'),
    h(
      'table',
      {class: 'facts moves', 'aria-label': 'changes by label', hidden: () => !rows.value.length},
      h(
        'thead',
        null,
        h(
          'tr',
          null,
          h('th', {scope: 'col'}, 'label'),
          Object.entries(MOVES).map(([move, title]) => h('th', {scope: 'col', title}, move)),
        ),
      ),
      h('tbody', null, () =>
        rows.value.slice(0, SHOWN).map(({label, numbers}) =>
          h(
            'tr',
            null,
            h('th', {scope: 'row'}, named(className(label))),
            Object.keys(MOVES).map((move, at) =>
              h('td', null, numbers[at] ? count(at, move, label, numbers[at]) : '–'),
            ),
          ),
        ),
      ),
    ),
    () => {
      const [all, ready] = [rows.value.length, counts.value.data && shown()];
      if (ready && !all) return h('p', {class: 'notice'}, 'No decision changed.');
      return all > SHOWN ? h('p', {class: 'notice'}, `${SHOWN} of ${all} labels with changes are shown.`) : null;
    },
  );
}
