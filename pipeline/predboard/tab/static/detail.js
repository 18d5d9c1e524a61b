// @ts-check
/** One image: large, what was predicted, the same image elsewhere. It knows nothing of the selection it came from. */
import {computed, effect, h, icon, named, signal} from './elements.js';
import {failure, getJson, imageAddress, resource} from './api.js';
import {copy} from './host.js';
import {
  changes,
  className,
  classWords,
  columnOf,
  cursor,
  go,
  list,
  message,
  need,
  openIndex,
  rowAt,
  run,
  shownTotal,
  step,
  version,
  view,
} from './state.js';
import {CROSS, labelNames, mark, show} from './gallery.js';
import {formatValues, keyOf, percent, short} from './query.js';
import {suspectBar, tagButtons} from './tags.js';
import {zoom} from './dialogs.js';

const LEFT = 'M10 3L5 8l5 5';
const RIGHT = 'M6 3l5 5-5 5';
const LARGE = 1024;
const SET = 'Probability of just these labels, if labels are independent';

const answer = resource(() => {
  if (!run.value || !view.value.image) return '';
  return `row?${subject()}&n=${changes.value}`;
}, getJson);

function subject() {
  const asked = new URLSearchParams({
    run: run.value?.name ?? '',
    step: step.value,
    key: view.value.image ?? '',
    v: version.value,
  });
  if (view.value.other) asked.set('other', view.value.other);
  return asked.toString();
}

export const opened = computed(() => {
  if (!view.value.image) return null;
  const {data, address} = answer.value;
  const full = data && address.startsWith(`row?${subject()}&n=`) ? data : null;
  const row = openIndex.value >= 0 ? rowAt(openIndex.value) : undefined;
  return full && row ? {...full, tags: row.tags, relabel: row.relabel} : (full ?? row ?? null);
});

const awaited = signal(-1);
effect(() => {
  const row = awaited.value >= 0 ? rowAt(awaited.value) : undefined;
  if (row) {
    awaited.value = -1;
    go({image: row.key}, true);
  }
});

/** @param {number} by */
export function openNext(by) {
  const from = openIndex.peek() >= 0 ? openIndex.peek() : cursor.peek();
  openAt(from + by);
}

/** @param {number} index */
export function openAt(index) {
  const at = Math.max(0, Math.min(shownTotal.peek() - 1, index));
  need(at, at + 1);
  awaited.value = at;
}

export const copyPath = async () => {
  const path = opened.peek()?.path ?? opened.peek()?.image;
  if (path)
    message.value = {text: (await copy(path)) ? 'Path copied' : 'The browser refused to copy; select the path instead'};
};

export function detail() {
  effect(preload);
  return h(
    'aside',
    {class: 'detail scroll', 'aria-label': 'one image', hidden: () => !view.value.image},
    h(
      'header',
      {class: 'inline'},
      h(
        'button',
        {
          id: 'previous',
          title: 'Previous (←)',
          'aria-label': 'Previous image',
          disabled: () => openIndex.value === 0,
          onclick: () => openNext(-1),
        },
        icon(LEFT),
      ),
      h(
        'button',
        {
          id: 'following',
          title: 'Next (→)',
          'aria-label': 'Next image',
          disabled: () => openIndex.value >= shownTotal.value - 1,
          onclick: () => openNext(1),
        },
        icon(RIGHT),
      ),
      h('span', {class: 'faint'}, () =>
        openIndex.value >= 0
          ? `${(openIndex.value + 1).toLocaleString('en')} of ${list.value.total.toLocaleString('en')}`
          : '',
      ),
      h('span', {class: 'grow'}),
      h('button', {title: 'Close (Esc)', 'aria-label': 'Close', onclick: () => go({image: ''})}, icon(CROSS)),
    ),
    failure(answer),
    heading,
    large(),
    path,
    suspectBar(() => opened.value, openNext),
    bars,
    tagButtons(() => opened.value),
    elsewhere,
    neighbours(),
    columns,
  );
}

function heading() {
  const row = opened.value;
  if (!row) return null;
  const word = row.verdict;
  /** @param {string} text @param {Classes | undefined} of */
  const line = (text, of) =>
    h('div', null, h('span', {class: 'faint'}, text, ' '), h('bdi', null, classWords(of)));
  const several = Array.isArray(row.pred);
  if (word === 'failed')
    return h(
      'div',
      {class: 'heading failed'},
      h('b', null, 'Not readable'),
      h('p', null, String(row.error ?? '').slice(0, 2000)),
    );
  return h(
    'div',
    {class: `heading ${word}`},
    h(
      'div',
      null,
      mark(word),
      several ? labelNames(row) : h('bdi', {class: 'name'}, className(row.pred)),
      several ? h('small', {class: 'number faint', title: SET}, 'this set') : null,
      h('span', {class: 'number', title: several ? SET : ''}, percent(row.conf)),
    ),
    word === 'wrong' ? line('true', row.true) : null,
    row.missed?.length ? line('missed', row.missed) : null,
    row.wrongly_predicted?.length ? line('wrongly predicted', row.wrongly_predicted) : null,
    word === 'unlabelled' ? h('div', {class: 'faint'}, 'no label') : null,
    row.old
      ? h(
          'div',
          null,
          h('span', {class: 'faint'}, `before, in ${view.value.other} `),
          h('bdi', null, classWords(row.old.pred)),
          ' ',
          h('span', {class: 'number faint'}, percent(row.old.conf)),
        )
      : null,
    row.old === null && view.value.other ? h('div', {class: 'faint'}, `not in ${view.value.other}`) : null,
  );
}

function large() {
  const image = h('img', {
    class: 'large',
    alt: () => String(opened.value?.image ?? '').slice(0, 300),
    draggable: 'false',
  });
  image.addEventListener('load', () => {
    const [w, hgt] = [image.naturalWidth, image.naturalHeight];
    image.classList.toggle('small', w < image.clientWidth && hgt < image.clientHeight);
    frame.classList.remove('gone', 'loading');
  });
  image.addEventListener('error', () => {
    frame.classList.add('gone');
    frame.classList.remove('loading');
  });
  const frame = h(
    'button',
    {class: 'large-frame', title: 'Zoom (z)', 'aria-label': 'Zoom', onclick: () => zoom(opened.peek())},
    image,
  );
  const address = computed(() =>
    run.value && opened.value ? imageAddress(run.value, step.value, opened.value.id, LARGE) : '',
  );
  effect(() => {
    if (!address.value) return;
    frame.classList.add('loading');
    image.src = address.value;
  });
  return frame;
}

function preload() {
  const [now, at] = [run.value, openIndex.value];
  if (!now || at < 0) return;
  need(at - 2, at + 3);
  for (const by of [1, -1, 2]) {
    const row = rowAt(at + by);
    if (row) new Image().src = imageAddress(now, step.value, row.id, LARGE);
  }
}

function path() {
  const row = opened.value;
  const text = row?.path ?? row?.image;
  if (!text) return null;
  return h(
    'div',
    {class: 'path'},
    h('code', {dir: 'ltr'}, String(text)),
    h('button', {id: 'copy-path', title: 'Copy the path (c)', onclick: copyPath}, 'copy'),
  );
}

function bars() {
  const row = opened.value;
  if (!row?.top?.length) return null;
  return h(
    'table',
    {class: 'top', 'aria-label': 'most probable classes'},
    row.top.map((/** @type {[number, number]} */ [index, p]) => {
      const has = (/** @type {any} */ of) => (Array.isArray(of) ? of.includes(index) : of === index);
      const kind = has(row.true) ? 'right' : has(row.pred) ? 'wrong' : '';
      return h(
        'tr',
        null,
        h('th', {scope: 'row', class: kind}, named(className(index))),
        h(
          'td',
          {class: 'wide'},
          h('span', {class: 'track'}, h('span', {class: `fill ${kind || 'plain'}`, style: {width: `${100 * p}%`}})),
        ),
        h('td', {class: 'number'}, percent(p)),
      );
    }),
  );
}

function elsewhere() {
  const row = opened.value;
  const seen = /** @type {any[]} */ (row?.seen ?? []);
  if (seen.length < 2) return null;
  /** @type {Map<string, any[]>} */
  const byRun = new Map();
  for (const one of seen) byRun.set(one.run, [...(byRun.get(one.run) ?? []), one]);
  return h(
    'section',
    {class: 'elsewhere'},
    h('h3', null, 'The same image at each step'),
    [...byRun].map(([name, steps]) =>
      h(
        'div',
        null,
        byRun.size > 1
          ? h(
              'h4',
              null,
              h('bdi', {class: 'clip'}, name),
              steps[0].joined_by && !/name/.test(steps[0].joined_by)
                ? h('span', {class: 'faint'}, ` (by ${steps[0].joined_by})`)
                : null,
            )
          : null,
        h(
          'div',
          {class: 'steps'},
          steps.map(one => {
            const current = one.run === run.value?.name && String(one.step) === step.value;
            const word = one.verdict;
            return h(
              'button',
              {
                id: `seen-${one.run}-${one.step}`,
                class: `seen ${word}`,
                'aria-current': current ? 'true' : null,
                title: `${classWords(one.pred).slice(0, 300)} ${percent(one.conf)}, loss ${short(one.loss)}`,
                onclick: () => go({run: one.run, step: String(one.step), image: one.key ?? row.key}),
              },
              h('small', null, `step ${one.step}`),
              h(
                'span',
                null,
                mark(word),
                h('bdi', {class: 'name clip'}, word === 'failed' ? 'not readable' : classWords(one.pred)),
              ),
              h('small', {class: 'number'}, percent(one.conf)),
            );
          }),
        ),
      ),
    ),
  );
}

function neighbours() {
  const open = signal(false);
  const near = resource(() => {
    if (!open.value || !run.value || !opened.value || !run.value.has.neighbours) return '';
    const [id, v] = [String(opened.value.id), version.value];
    return `neighbours?${new URLSearchParams({run: run.value.name, step: step.value, id, limit: '12', v})}`;
  }, getJson);
  /** @param {any[] | undefined} rows @param {any} title */
  const strip = (rows, title) =>
    rows?.length
      ? [
          h('h4', null, title),
          h(
            'div',
            {class: 'strip'},
            rows.map(row => {
              const image = h('img', {alt: ''});
              const of = run.peek();
              if (of) show(image, of, step.peek(), row, 128);
              const word = row.verdict;
              return h(
                'button',
                {
                  class: `near ${word}`,
                  title: `${percent(row.conf)}, true: ${classWords(row.true)}`.slice(0, 300),
                  onclick: () => go({image: row.key}),
                },
                image,
                h('span', {class: 'clip'}, mark(word), h('bdi', {class: 'name'}, classWords(row.pred))),
              );
            }),
          ),
        ]
      : null;
  /** @param {any[] | undefined} rows @param {Classes} of */
  const rightOnes = (rows, of) => strip(rows, ['nearest that are rightly ', h('bdi', null, classWords(of))]);
  return h(
    'details',
    {
      class: 'neighbours',
      hidden: () => !run.value?.has.neighbours,
      ontoggle: e => {
        open.value = e.target.open;
      },
    },
    h('summary', null, 'What the model sees as alike'),
    failure(near),
    () => {
      const data = near.value.data;
      const row = opened.value;
      if (!data || !row) return open.value ? h('p', {class: 'faint'}, 'Looking…') : null;
      return [
        strip(data.rows, `nearest by ${data.by}`),
        row.verdict === 'unlabelled' ? null : rightOnes(data.of_true, row.true),
        row.verdict === 'right' ? null : rightOnes(data.of_pred, row.pred),
      ];
    },
  );
}

function columns() {
  const row = opened.value;
  if (!row?.more) return null;
  /** @type {[string, any][]} */
  const all = Object.entries({loss: row.loss, margin: row.margin, entropy: row.entropy, ...row.more});
  return h(
    'table',
    {class: 'facts', 'aria-label': 'columns'},
    all.map(([name, value]) => {
      const column = columnOf(name);
      const words =
        value === null || value === undefined ? '–' : typeof value === 'number' ? short(value) : String(value);
      const filter =
        column?.kind === 'category'
          ? h(
              'button',
              {
                class: 'text',
                title: 'Show all images with this value',
                onclick: () => go({[keyOf(column)]: formatValues([value === null ? null : String(value)])}),
              },
              h('bdi', {}, words.slice(0, 2000)),
            )
          : null;
      return h(
        'tr',
        null,
        h('th', {scope: 'row'}, h('bdi', {class: 'clip'}, name)),
        h('td', null, filter ?? h('bdi', null, words.slice(0, 2000))),
      );
    }),
  );
}
