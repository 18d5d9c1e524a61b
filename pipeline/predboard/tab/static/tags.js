// @ts-check
/** Words that a person puts on images, and takes off again. It knows nothing of where they are kept. */
import {batch, effect, h, icon} from './elements.js';
import {post} from './api.js';
import {
  changes,
  chosen,
  className,
  classWords,
  cursor,
  go,
  list,
  message,
  openIndex,
  query,
  readOnly,
  rowAt,
  run,
  tagCounts,
  view,
  writable,
} from './state.js';
import {images} from './query.js';
import {CROSS, FLAG} from './gallery.js';

const OFFERED = ['relabel', 'hard'];
const KEPT = 'label-ok';

const offered = () => [...new Set([...OFFERED, ...Object.keys(tagCounts.value).sort()])];

/** @param {string} route @param {Record<string, any>} body
 * @param {(answer: any) => string} sentence empty if nothing was done */
async function change(route, body, sentence) {
  try {
    const answer = await post(route, body);
    batch(() => {
      tagCounts.value = answer.tags;
      changes.value++;
      const text = sentence(answer);
      const again = route === 'undo' ? 'Undo one more (u)' : 'Undo (u)';
      message.value = {text: text || 'Nothing to undo', undo: text && again};
    });
  } catch (error) {
    message.value = {text: /** @type {Error} */ (error).message};
  }
}

/** @param {string} tag @param {boolean} on @param {number} n */
const words = (tag, on, n) => `“${tag}” ${on ? 'on' : 'off'} ${images(n)}`;

/** @param {string[]} keys @param {string} tag @param {boolean} on @param {string} [label] class to relabel to */
export const tagKeys = (keys, tag, on, label) =>
  change('tag', {keys, query: query.peek(), tag, on, label}, ({changed}) => words(tag, on, changed));

/** @param {string} tag @param {boolean} on */
const tagSelection = (tag, on) => change('tag', {query: query.peek(), tag, on}, ({changed}) => words(tag, on, changed));

/** Whether tags can be written; says why where they cannot. */
function canTag() {
  if (readOnly.peek()) message.value = {text: readOnly.peek()};
  return !readOnly.peek();
}

export async function undo() {
  if (canTag())
    await change('undo', {}, ({undone}) =>
      undone ? `Undone: ${words(undone.tag, undone.on, undone.images)}` : '',
    );
}

/** @returns {Row[]} */
export function acted() {
  const keys = chosen.peek();
  if (keys.size) return [...list.peek().pages.values()].flat().filter(row => keys.has(row.key));
  const row = rowAt(openIndex.peek() >= 0 ? openIndex.peek() : cursor.peek());
  return row ? [row] : [];
}

/** @param {string} tag */
export function toggleTag(tag) {
  if (!canTag()) return;
  const rows = acted();
  if (rows.length)
    tagKeys(
      rows.map(row => row.key),
      tag,
      !rows.every(row => row.tags.includes(tag)),
    );
}

/** @param {(tag: string) => void} use @param {string} id */
export function wordField(use, id) {
  return h('input', {
    id,
    class: 'narrow',
    placeholder: 'own word',
    'aria-label': 'Tag with a word of your own',
    maxlength: 64,
    list: 'words',
    onkeydown: event => {
      if (event.key !== 'Enter') return;
      const word = event.target.value.trim();
      event.target.value = '';
      if (/,|^!/.test(word)) message.value = {text: 'A tag has no comma and does not begin with “!”'};
      else if (word) use(word);
    },
  });
}

export function chosenBar() {
  return h(
    'div',
    {class: 'bar chosen-bar', hidden: () => !chosen.value.size, role: 'toolbar', 'aria-label': 'chosen images'},
    h('b', null, () => images(chosen.value.size)),
    ' chosen',
    h(
      'span',
      {class: 'inline', hidden: () => !writable.value},
      () =>
        offered().map(word => h('button', {id: `chosen-${word}`, onclick: () => toggleTag(word)}, icon(FLAG), word)),
      wordField(word => toggleTag(word), 'chosen-word'),
    ),
    h('span', {class: 'grow'}),
    h(
      'button',
      {
        onclick: () => {
          chosen.value = new Set();
        },
        title: 'Esc',
      },
      'Choose none',
    ),
  );
}

export function tagMenu() {
  const count = () => Object.values(tagCounts.value).reduce((a, b) => a + b, 0);
  return h(
    'details',
    {class: 'menu'},
    h('summary', {title: 'Tags'}, icon(FLAG), 'Tags', () => (count() ? ` ${count()}` : '')),
    h(
      'div',
      {class: 'sheet'},
      h('h3', null, 'Show images with'),
      () =>
        Object.entries(tagCounts.value)
          .filter(([, n]) => n)
          .map(([word, n]) =>
            h(
              'button',
              {
                id: `tag-${word}`,
                class: 'line',
                'aria-pressed': () => view.value.tag === word,
                onclick: () => go({tag: view.peek().tag === word ? '' : word}),
              },
              h('bdi', {class: 'clip'}, word),
              h('span', {class: 'number'}, n.toLocaleString('en')),
            ),
          ),
      () =>
        count()
          ? h('button', {class: 'line', onclick: () => go({tag: '!'})}, 'no tag')
          : h('p', {class: 'faint'}, 'No image has a tag yet.'),
      h(
        'div',
        {hidden: () => !writable.value},
        h('h3', null, () => `Tag all ${images(list.value.total)} of the selection`),
        () =>
          offered().map(word =>
            h(
              'div',
              {class: 'line'},
              h('bdi', {class: 'clip grow'}, word),
              h('button', {onclick: () => tagSelection(word, true)}, 'put on'),
              h('button', {onclick: () => tagSelection(word, false)}, 'take off'),
            ),
          ),
        wordField(word => tagSelection(word, true), 'selection-word'),
        h('button', {class: 'line', onclick: undo}, 'Undo the last change (u)'),
      ),
      h('p', {class: 'faint'}, () => readOnly.value),
    ),
  );
}

/** @param {() => any} row */
export function tagButtons(row) {
  return h(
    'div',
    {class: 'tags', hidden: () => !writable.value && !row()?.tags.length},
    () =>
      offered().map(word => {
        const on = row()?.tags.includes(word);
        return h(
          'button',
          {
            id: `open-tag-${word}`,
            'aria-pressed': String(Boolean(on)),
            disabled: !writable.value,
            onclick: () => tagKeys([row().key], word, !on),
            title: {relabel: 'Tag relabel (r)', hard: 'Tag hard (h)'}[word] ?? '',
          },
          icon(FLAG),
          h('bdi', {class: 'clip'}, word),
        );
      }),
    h(
      'span',
      {hidden: () => !writable.value},
      wordField(word => tagKeys([row().key], word, true), 'open-word'),
    ),
    h('input', {
      id: 'relabel-to',
      class: 'narrow',
      placeholder: 'right label',
      'aria-label': 'Relabel to',
      list: 'classes',
      hidden: () => !writable.value || run.value?.multi_label,
      value: () => row()?.relabel ?? '',
      onchange: e =>
        run.peek()?.classes.includes(e.target.value) && tagKeys([row().key], 'relabel', true, e.target.value),
    }),
  );
}

/** The queue of suspected labels: what is suggested, and an answer by one key. Of several labels no tag says which are
 * right. @param {() => any} row
 * @param {(by: number) => void} step */
export function suspectBar(row, step) {
  return h('div', {class: 'suspect', hidden: () => row()?.suggested === undefined}, () => {
    const now = row();
    if (now?.suggested === undefined) return null;
    const several = Array.isArray(now.true);
    return [
      h('p', null, doubt(now)),
      h(
        'div',
        {class: 'inline', hidden: !writable.value},
        h('button', {id: 'accept', onclick: () => answer(now, true, step)}, several ? 'Tag relabel (a)' : 'Accept (a)'),
        h('button', {id: 'keep', onclick: () => answer(now, false, step)}, 'Keep (k)'),
        h('button', {id: 'next', onclick: () => step(1)}, 'Next (→)'),
      ),
    ];
  });
}

/** What is suspected of the labels of a row. @param {Row} row */
function doubt(row) {
  const bold = (/** @type {string} */ text) => h('b', null, h('bdi', null, text));
  const other = bold(className(row.suggested ?? -1));
  if (!Array.isArray(row.true))
    return ['The label ', bold(classWords(row.true)), ' is suspected; suggested is ', other, '.'];
  return row.given ? ['The label ', other, ' is suspected: it may not apply.'] : [other, ' may apply too.'];
}

/** @param {Row} row @param {boolean} accept @param {(by: number) => void} step */
export async function answer(row, accept, step) {
  if (row.suggested === undefined || !canTag()) return;
  const label = Array.isArray(row.true) ? undefined : className(row.suggested);
  if (accept) await tagKeys([row.key], 'relabel', true, label);
  else await tagKeys([row.key], KEPT, true);
  step(1);
}

export function messageLine() {
  effect(() => {
    if (!message.value) return;
    const later = setTimeout(() => {
      message.value = null;
    }, 8000);
    return () => clearTimeout(later);
  });
  return h(
    'div',
    {class: 'message', role: 'status', hidden: () => !message.value},
    h('span', null, () => message.value?.text.slice(0, 500) ?? ''),
    h('button', {hidden: () => !message.value?.undo, onclick: undo}, () => message.value?.undo ?? ''),
    h(
      'button',
      {
        'aria-label': 'Close',
        onclick: () => {
          message.value = null;
        },
      },
      icon(CROSS),
    ),
  );
}

export const datalists = () => [
  h('datalist', {id: 'words'}, () => offered().map(word => h('option', {value: word}))),
  h('datalist', {id: 'classes'}, () =>
    (run.value?.classes ?? []).slice(0, 2000).map(name => h('option', {value: name.slice(0, 1000)})),
  ),
];
