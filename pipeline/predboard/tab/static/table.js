// @ts-check
/** The images of the selection as a table of columns. It knows nothing of why a row is in the selection. */
import {computed, effect, h, named, signal, virtual} from './elements.js';
import {
  asTable,
  classWords,
  cursor,
  descending,
  go,
  list,
  need,
  rowAt,
  run,
  shownColumns,
  shownTotal,
  sort,
  view,
} from './state.js';
import {clicked, follow, followPlace, keepTexts, look, mark, notes} from './gallery.js';
import {percent, short, toggled} from './query.js';

const HEIGHT = 36;

/** @type {Record<string, string>} */
const WIDTHS = {
  image: 'minmax(180px, 3fr)',
  true: 'minmax(90px, 1.2fr)',
  predicted: 'minmax(90px, 1.2fr)',
  before: 'minmax(90px, 1.2fr)',
  confidence: 'minmax(86px, .7fr)',
};

/** @type {Record<string, (row: Row) => any>} */
const OWN = {
  predicted: row =>
    row.verdict === 'failed' ? 'not readable' : [mark(row.verdict), named(classWords(row.pred), classWords(row.true))],
  true: row => named(classWords(row.true), classWords(row.pred)),
  missed: row => named(classWords(row.missed)),
  'wrongly predicted': row => named(classWords(row.wrongly_predicted)),
  confidence: row => percent(row.conf),
  loss: row => short(row.loss),
  margin: row => short(row.margin),
  before: row => (row.old ? named(classWords(row.old.pred), classWords(row.pred)) : '–'),
  tags: row => row.tags.join(', '),
};
const SORTED = ['confidence', 'loss', 'margin'];
const HIDDEN = ['label_name', 'predicted_name', 'label', 'predicted'];

export function table() {
  const shown = () => asTable.value;
  const further = computed(() =>
    (run.value?.columns ?? []).map(column => column.name).filter(name => !(name in OWN) && !HIDDEN.includes(name)),
  );
  /** @type {Signal<readonly string[]>} */
  const on = signal(/** @type {readonly string[]} */ (['image']));
  effect(() => {
    shownColumns.value = shown()
      ? JSON.stringify(on.value.filter(name => name === 'image' || further.value.includes(name)))
      : '';
  });
  const own = computed(() => Object.keys(OWN).filter(name =>
      name === 'before' ? view.value.other : run.value?.multi_label || !/missed|wrongly/.test(name),
    ));
  const names = computed(() => [
    ...own.value,
    ...on.value.filter(name => name === 'image' || further.value.includes(name)),
  ]);
  const template = computed(() => `44px ${names.value.map(name => WIDTHS[name] ?? 'minmax(64px, .7fr)').join(' ')}`);
  const head = h(
    'div',
    {class: 'table-row table-head', role: 'row', style: () => ({'grid-template-columns': template.value})},
    h('span', {role: 'columnheader', 'aria-label': 'picture'}),
    () =>
      names.value.map(name => {
        const sortable = SORTED.includes(name) || on.peek().includes(name);
        const state = () => (sort.value === name ? (descending.value ? 'descending' : 'ascending') : 'none');
        return h(
          'span',
          {role: 'columnheader', 'aria-sort': state},
          sortable
            ? h(
                'button',
                {
                  id: `head-${name}`,
                  class: 'text',
                  onclick: () => go({sort: name, desc: sort.peek() === name && descending.peek() ? '0' : '1'}),
                },
                h('bdi', {class: 'clip'}, name === 'image' ? 'path' : name),
                () => (sort.value === name ? (descending.value ? ' ↓' : ' ↑') : ''),
              )
            : name,
        );
      }),
  );
  const inner = h('div', {class: 'inner', role: 'presentation'});
  const box = h(
    'div',
    {
      id: 'table',
      class: 'gallery table scroll',
      tabindex: '0',
      role: 'grid',
      'aria-label': 'images of the selection',
      'aria-rowcount': () => list.value.total,
      'aria-activedescendant': () => (shown() && shownTotal.value ? `line-${cursor.value}` : null),
      onmousedown: keepTexts,
      'data-stale': () => list.value.stale,
    },
    head,
    inner,
    notes,
  );
  const grid = virtual(
    box,
    inner,
    () => (shown() ? shownTotal.value : 0),
    () => ({across: 1, height: HEIGHT, left: () => 0, top: 0, width: '100%'}),
    index => line(index, names, template),
    need,
  );
  followPlace(grid);
  const picker = h(
    'details',
    {class: 'menu'},
    h('summary', null, 'Columns'),
    h('div', {class: 'sheet'}, () =>
      ['image', ...further.value].map(name =>
        h(
          'label',
          {class: 'line'},
          h('input', {
            type: 'checkbox',
            checked: on.peek().includes(name),
            onchange: () => {
              on.value = toggled(on.peek(), name);
            },
          }),
          h('bdi', {class: 'clip'}, name === 'image' ? 'path' : name),
        ),
      ),
    ),
  );
  return {box: h('div', {class: 'table-box', hidden: () => !shown()}, h('div', {class: 'bar'}, picker), box), grid};
}

/** @param {number} index @param {Computed<string[]>} names @param {Computed<string>} template */
function line(index, names, template) {
  const row = computed(() => rowAt(index));
  const image = h('img', {alt: '', width: 32, height: 32});
  follow(image, row, () => 64);
  return h(
    'div',
    {
      id: `line-${index}`,
      role: 'row',
      'aria-rowindex': index + 1,
      style: () => ({'grid-template-columns': template.value}),
      class: () => `table-row ${look(index, row.value)}`,
      onclick: event => clicked(index, event),
    },
    h('span', {role: 'gridcell'}, image),
    () =>
      names.value.map(name => {
        const now = row.value;
        const value = now && (OWN[name] ? OWN[name](now) : now.more?.[name]);
        return h(
          'span',
          {
            role: 'gridcell',
            class: name === 'image' ? 'clip ending' : 'clip',
            title: typeof value === 'string' ? value.slice(0, 1000) : '',
          },
          typeof value === 'number'
            ? short(value)
            : value instanceof Node || Array.isArray(value)
              ? value
              : h('bdi', null, String(value ?? '').slice(0, 500)),
        );
      }),
  );
}
