// @ts-check
/** The line above all views: run, step, comparison, verdict, search; and below it what is selected, as chips. It knows
 * nothing of rows but how many there are. */
import {computed, effect, h, icon} from './elements.js';
import {commandOf} from './command.js';
import {copy} from './host.js';
import {
  asTable,
  chosen,
  className,
  descending,
  go,
  link,
  list,
  logdir,
  message,
  query,
  run,
  runs,
  showAs,
  sort,
  step,
  suspected,
  usable,
  view,
} from './state.js';
import {chipWords, classesOf, cleared, filtersOf, images, SCORES, uncompared} from './query.js';
import {CROSS, GRID, LINES, side, setSide} from './gallery.js';
import {groupWith} from './groups.js';
import {acted, tagMenu} from './tags.js';
import {openHelp} from './dialogs.js';

const UP = 'M8 13V4M4 8l4-4 4 4';
const DOWN = 'M8 3v9M4 8l4 4 4-4';

export function bar() {
  return h(
    'header',
    {class: 'bar', role: 'banner'},
    runSelect(),
    stepSelect(),
    compareSelect(),
    verdicts(),
    search(),
    h('span', {class: 'grow'}),
    notesMenu(),
    tagMenu(),
    exportMenu(),
    h('button', {id: 'link', title: 'Copy a link to this view (l)', onclick: copyLink}, 'Link'),
    h('button', {id: 'help', title: 'Keys (?)', 'aria-label': 'Keys', onclick: openHelp}, '?'),
  );
}

/** @param {string} text @param {string} done */
async function copied(text, done) {
  message.value = {text: (await copy(text)) ? done : `The browser refused to copy: ${text}`};
}

export const copyLink = () => copied(link(), 'Link copied');

/** @param {string} text */
const clipped = text => (text.length > 80 ? `${text.slice(0, 79)}…` : text);

function runSelect() {
  return h(
    'select',
    {
      id: 'run',
      'aria-label': 'Run',
      class: 'wide-select',
      onchange: e => {
        const picked = runs.peek()?.[Number(e.target.value)];
        if (!picked) return;
        if (picked.kind === 'run')
          go({run: picked.name, step: '', ...(view.peek().other ? uncompared : {}), image: ''});
        else if (picked.new && picked.old) {
          const at = picked.new.lastIndexOf('@');
          go({
            run: picked.new.slice(0, at),
            step: picked.new.slice(at + 1),
            other: picked.old,
            pane: 'changes',
            image: '',
          });
        }
      },
    },
    () => {
      const all = (runs.value ?? []).map((one, index) => ({one, index}));
      const option = (/** @type {{one: Run, index: number}} */ {one, index}) =>
        h(
          'option',
          {
            value: index,
            selected: one.name === run.value?.name,
            disabled: one.kind === 'broken' || (one.kind === 'comparison' && !(one.old && one.new)),
          },
          clipped(one.name) + (one.kind === 'broken' ? ' (cannot be read)' : ''),
        );
      const comparisons = all.filter(({one}) => one.kind === 'comparison');
      return [
        all.filter(({one}) => one.kind !== 'comparison').map(option),
        comparisons.length ? h('optgroup', {label: 'Comparisons'}, comparisons.map(option)) : null,
      ];
    },
  );
}

function stepSelect() {
  return h(
    'span',
    {class: 'inline', hidden: () => (run.value?.steps.length ?? 0) < 2},
    h(
      'select',
      {id: 'step', 'aria-label': 'Step', title: 'Step ([ and ])', onchange: e => go({step: e.target.value})},
      () => (run.value?.steps ?? []).map(s => h('option', {value: s, selected: String(s) === step.value}, `step ${s}`)),
    ),
  );
}

/** @param {number} by */
export function otherStep(by) {
  const steps = run.peek()?.steps.map(String) ?? [];
  const to = steps[steps.indexOf(step.peek()) + by];
  if (to) go({step: to});
}

function compareSelect() {
  const others = computed(() =>
    usable.value
      .flatMap(one => one.steps.map(s => ({one, s})))
      .filter(({one, s}) => !(one.name === run.value?.name && String(s) === step.value)),
  );
  return h(
    'select',
    {
      id: 'compare',
      'aria-label': 'Compare with',
      class: 'wide-select',
      hidden: () => !others.value.length,
      onchange: e =>
        go(
          e.target.value
            ? {other: e.target.value}
            : {...uncompared, ...(view.peek().pane === 'changes' ? {pane: ''} : {})},
        ),
    },
    () => {
      const now = view.value.other ?? '';
      const several = usable.value.length > 1;
      return [
        h('option', {value: '', selected: !now}, now ? 'no comparison' : 'compare with…'),
        others.value.map(({one, s}) => {
          const value = `${one.name}@${s}`;
          return h(
            'option',
            {value, selected: value === now},
            `${now === value ? 'against ' : ''}${several ? `${clipped(one.name)} ` : ''}step ${s}`,
          );
        }),
        now && !others.value.some(({one, s}) => `${one.name}@${s}` === now)
          ? h('option', {value: now, selected: true}, `against ${clipped(now)}`)
          : null,
      ];
    },
  );
}

function verdicts() {
  const none = {right: '', suspect: ''};
  /** @param {string} words @param {View} change @param {() => boolean} on @param {string} [title] */
  const button = (words, change, on, title = '') =>
    h(
      'button',
      {
        id: `show-${words}`,
        'aria-pressed': on,
        title,
        hidden: () => words === 'suspects' && !suspected.value,
        onclick: () => go({...none, ...(view.peek().suspect ? {sort: ''} : {}), ...change}),
      },
      words,
    );
  return h(
    'span',
    {class: 'segments', role: 'group', 'aria-label': 'Verdict', hidden: () => run.value?.labelled === false},
    button('all', {}, () => !view.value.right && !view.value.suspect),
    button('wrong', {right: '0'}, () => view.value.right === '0', 'Wrong ones only (e)'),
    button('right', {right: '1'}, () => view.value.right === '1'),
    button(
      'suspects',
      {suspect: '1', sort: 'suspect', desc: ''},
      () => view.value.suspect === '1',
      'Labels that may be wrong, the likeliest first',
    ),
  );
}

function search() {
  let later = 0;
  const field = h('input', {
    id: 'search',
    type: 'search',
    placeholder: 'Path has… (/)',
    'aria-label': 'Text in the path',
    maxlength: 500,
    oninput: () => {
      clearTimeout(later); // not each letter is a request
      later = window.setTimeout(() => go({q: field.value}, true), 200);
    },
    onchange: () => go({q: field.value}),
  });
  effect(() => {
    const text = view.value.q ?? '';
    if (document.activeElement !== field) field.value = text;
  });
  return field;
}

function notesMenu() {
  const notes = computed(() => [
    ...(run.value?.missing ?? []),
    ...(runs.value ?? [])
      .filter(one => one.kind === 'broken')
      .map(one => `${clipped(one.name)}: ${one.error ?? 'cannot be read'}`),
  ]);
  return h(
    'details',
    {class: 'menu', hidden: () => !notes.value.length},
    h('summary', null, () => `${notes.value.length} ${notes.value.length === 1 ? 'note' : 'notes'}`),
    h('div', {class: 'sheet'}, h('h3', null, 'What is missing from these logs'), () =>
      notes.value.map(text => h('p', null, text.slice(0, 1000))),
    ),
  );
}

/** Its lines end between words, not within `--sort`. @param {string} text */
const wordsOf = text => text.split(/(?<= )/).map(word => h('span', null, word));

function exportMenu() {
  const formats = {csv: 'CSV', json: 'JSON', parquet: 'Parquet', paths: 'paths, one a line'};
  const address = (/** @type {string} */ format) => {
    const asked = new URLSearchParams(query.value);
    asked.set('sort', sort.value);
    asked.set('desc', descending.value ? '1' : '0');
    asked.set('format', format);
    if (chosen.value.size)
      asked.set(
        'ids',
        acted()
          .map(row => row.id)
          .join(),
      );
    return `./export?${asked}`;
  };
  const command = computed(() => {
    const folder = `${logdir.value || 'LOGS'}/${run.value?.name ?? ''}`;
    return commandOf(view.value, folder, run.value?.classes ?? [], step.value, sort.value, descending.value);
  });
  const tooMany = () => chosen.value.size > 1000;
  return h(
    'details',
    {class: 'menu'},
    h('summary', {title: 'Save a list of the images'}, 'Export'),
    h(
      'div',
      {class: 'sheet'},
      h('h3', null, () =>
        chosen.value.size
          ? `The ${images(chosen.value.size)} chosen`
          : `All ${images(list.value.total)} of the selection`,
      ),
      () =>
        tooMany()
          ? h('p', null, 'More than 1,000 are chosen: tag them, then filter by the tag.')
          : Object.entries(formats).map(([format, words]) =>
              h('a', {id: `export-${format}`, class: 'line', download: '', href: () => address(format)}, words),
            ),
      h('h3', null, () =>
        chosen.value.size ? `In a terminal, all ${images(list.value.total)} of the selection` : 'In a terminal',
      ),
      () => (command.value ? h('code', {id: 'command', class: 'command'}, wordsOf(command.value)) : null),
      () =>
        command.value
          ? h('button', {class: 'line', onclick: () => copied(command.peek(), 'Command copied')}, 'copy the command')
          : h('p', {class: 'faint'}, 'No command makes this selection.'),
      h('p', {class: 'faint'}, 'With ', h('code', null, '--copy-to DIR'), ' it copies the image files too.'),
    ),
  );
}

/** @param {string} key */
function filterText(key) {
  const words = chipWords(key, view.value, className);
  const group = ['true', 'pred', 'was'].includes(key) ? groupWith(classesOf(view.value[key])) : '';
  return group ? words.replace(/: .*/s, () => `: ${group.slice(0, 60)}`) : words;
}

export function chips() {
  return h(
    'div',
    {class: 'bar chips'},
    h('b', {id: 'total', 'aria-live': 'polite', 'data-stale': () => list.value.stale}, () =>
      list.value.order ? images(list.value.total) : '…',
    ),
    () =>
      filtersOf(view.value).map(key =>
        h(
          'button',
          {
            id: `chip-${key}`,
            class: 'chip',
            title: 'Remove this filter',
            onclick: () => go({[key]: '', ...(key === 'suspect' ? {sort: ''} : {})}),
          },
          h('bdi', {class: 'clip'}, filterText(key)),
          icon(CROSS, 'remove'),
        ),
      ),
    () =>
      filtersOf(view.value).length > 1
        ? h('button', {id: 'clear', class: 'text', onclick: () => go(cleared(view.peek()))}, 'clear all')
        : null,
    h('span', {class: 'grow'}),
    sortSelect(),
    h(
      'button',
      {
        id: 'direction',
        title: 'Other way round',
        'aria-label': () => (descending.value ? 'descending' : 'ascending'),
        onclick: () => go({desc: descending.peek() ? '0' : '1'}),
      },
      () => icon(descending.value ? DOWN : UP),
    ),
    h('input', {
      type: 'range',
      min: 64,
      max: 256,
      step: 16,
      value: () => side.value,
      'aria-label': 'Size of the pictures',
      title: 'Size of the pictures',
      hidden: () => asTable.value,
      class: 'size',
      oninput: e => setSide(Number(e.target.value)),
    }),
    h(
      'span',
      {class: 'segments', role: 'group', 'aria-label': 'Show as'},
      h(
        'button',
        {
          id: 'show-pictures',
          'aria-pressed': () => !asTable.value,
          title: 'Pictures (g)',
          onclick: () => showAs(false),
        },
        icon(GRID, 'pictures'),
      ),
      h(
        'button',
        {
          id: 'show-table',
          'aria-pressed': () => asTable.value,
          title: 'Table (g)',
          onclick: () => showAs(true),
        },
        icon(LINES, 'table'),
      ),
    ),
  );
}

function sortSelect() {
  const options = computed(() => {
    const columns = run.value?.columns ?? [];
    /** @type {Record<string, string>} */
    const words = {};
    for (const name of SCORES) if (columns.some(column => column.name === name)) words[name] = name;
    if (suspected.value) words.suspect = 'suspected labels';
    if (view.value.other) words.old_confidence = 'confidence before';
    words.id = 'order of the data';
    words.image = 'path';
    for (const column of columns) words[column.name] ??= column.name;
    return words;
  });
  return h(
    'label',
    {class: 'inline'},
    h('span', {class: 'faint'}, 'by'),
    h(
      'select',
      {
        id: 'sort',
        'aria-label': 'Sort by',
        onchange: e => go({sort: e.target.value, desc: ''}),
      },
      () =>
        Object.entries(options.value).map(([value, words]) =>
          h('option', {value, selected: value === sort.value}, clipped(words)),
        ),
    ),
  );
}
