// @ts-check
/** The images of the selection as pictures. It knows nothing of why a row is in the selection. */
import {computed, effect, h, icon, named, signal, virtual} from './elements.js';
import {picture} from './api.js';
import {
  asTable,
  choose,
  chooseRange,
  chosen,
  className,
  classWords,
  cursor,
  go,
  list,
  MOST,
  need,
  onePair,
  openIndex,
  query,
  rowAt,
  run,
  shownTotal,
  sort,
  step,
  view,
} from './state.js';
import {classesOf, percent, short} from './query.js';

export const TICK = 'M3 8.5l3.2 3.2L13 4.8';
export const CROSS = 'M4 4l8 8M12 4l-8 8';
export const GRID = 'M3 3h4v4H3zM9 3h4v4H9zM3 9h4v4H3zM9 9h4v4H9z';
export const LINES = 'M3 4h10M3 8h10M3 12h10';
export const FLAG = 'M4 14V3h8l-2 3 2 3H4';

const GAP = 8;
const LINE = 17;

/** Lines below a picture: with a comparison, one more. */
const lineCount = () => (view.value.other ? 3 : 2);

export const side = signal(stored());

function stored() {
  try {
    return Math.min(256, Math.max(64, Number(localStorage.getItem('predboard.side')) || 128));
  } catch {
    return 128; // storage is switched off
  }
}

/** @param {number} value */
export function setSide(value) {
  side.value = value;
  try {
    localStorage.setItem('predboard.side', String(value));
  } catch {
    // it holds until the page is left
  }
}

/** @param {string} word */
export const mark = word => (word === 'right' ? icon(TICK, 'right') : word === 'wrong' ? icon(CROSS, 'wrong') : null);

/** @param {Row} row */
function fileName(row) {
  const image = String(row.more?.image ?? '');
  const last = image.replace(/.*[/#]/s, '').slice(-200);
  return h('span', {class: 'name file ending', title: image.slice(-1000)}, h('bdi', null, last));
}

/** @param {any} text */
const faint = text => h('span', {class: 'faint'}, text);

/** What differs between the pictures in sight: a class that all have in common is not repeated under each.
 * @param {Row} row @returns {any[]} lines */
function captions(row) {
  const now = view.value;
  const {verdict: word, true: label, pred} = row;
  if (word === 'failed') return [h('b', null, 'not readable'), label === null || label === -1 ? '' : classWords(label)];
  if (typeof pred !== 'number' || typeof label !== 'number') return setCaptions(row);
  const common = {pred: classesOf(now.pred).length === 1, true: classesOf(now.true).length === 1};
  const before = typeof row.old?.pred === 'number' ? row.old.pred : pred;
  const against = word === 'wrong' && !common.true ? label : before;
  /** @param {number} index @param {number} other */
  const name = (index, other) => named(className(index), className(other));
  const first = [
    mark(word),
    common.pred && now.true ? null : name(pred, against),
    h('span', {class: 'number'}, tight(row.conf)),
  ];
  const isNews = word === 'wrong' && !common.true;
  const second = onePair.value ? fileName(row) : isNews ? [faint('true '), name(label, pred)] : null;
  if (row.old) {
    const same = before === pred;
    return [
      first,
      [
        faint(same ? 'as before' : 'was '),
        same ? null : name(before, pred),
        h('span', {class: 'number faint'}, tight(row.old.conf)),
      ],
      second,
    ];
  }
  if (row.suggested !== undefined && now.suspect)
    return [first, [faint('labelled '), name(label, pred)]];
  return [first, [second, h('span', {class: 'number faint', title: sort.value}, sortWords(row))]];
}

/** @param {Classes} of */
const names = of => h('bdi', {class: 'name', title: classWords(of).slice(0, 1000)}, classWords(of));

/** Predicted labels, the wrong ones among them in their colour; below them what was missed. @param {Row} row
 * @returns {any[]} lines */
function setCaptions(row) {
  const first = [mark(row.verdict), labelNames(row), h('span', {class: 'number'}, tight(row.conf))];
  const missed = row.missed?.length ? [faint('missed '), names(askedFirst(row.missed, 'missed', 'true'))] : null;
  if (row.old) {
    const same = String(row.old.pred) === String(row.pred);
    return [first, same ? faint('as before') : [faint('was '), names(row.old.pred)], missed];
  }
  return [first, [missed, h('span', {class: 'number faint', title: sort.value}, sortWords(row))]];
}

/** Labels, first those that filters ask for: a caption may have no room for all.
 * @param {number[]} labels @param {...string} filters */
function askedFirst(labels, ...filters) {
  const asked = filters.flatMap(key => classesOf(view.value[key]));
  return [...labels].sort((a, b) => Number(asked.includes(b)) - Number(asked.includes(a)));
}

/** @param {Row} row */
export function labelNames(row) {
  const labels = Array.isArray(row.pred) ? askedFirst(row.pred, 'wrongly_predicted', 'pred') : [];
  return h(
    'bdi',
    {class: 'name labels', title: classWords(row.pred).slice(0, 1000)},
    labels.length ? null : 'nothing',
    labels.map((index, i) => [
      i ? ', ' : '',
      h('span', {class: row.wrongly_predicted?.includes(index) ? 'bad' : ''}, className(index).slice(0, 200)),
    ]),
  );
}

/** @param {number | null} value */
const tight = value => percent(value).replaceAll(' ', '');

/** @param {Row} row */
function sortWords(row) {
  const by = sort.value;
  if (by === 'confidence' || by === 'id' || by === 'image' || by === 'suspect') return '';
  const value = by === 'loss' ? row.loss : by === 'margin' ? row.margin : row.more?.[by];
  if (value === undefined || value === null) return '';
  return typeof value === 'number' ? short(value) : String(value).slice(0, 60);
}

/** Put the picture of a row into an image element, and give it up when the effect around it ends.
 * @type {ShowPicture} */
export const show = (image, of, at, row, pixels) => {
  return picture(of, at, row.id, pixels, address => {
    image.parentElement?.classList.toggle('gone', address === 'none');
    if (address === 'none') image.removeAttribute('src');
    else image.src = address;
  });
};

export function gallery() {
  const inner = h('div', {class: 'inner', role: 'presentation'});
  const box = h(
    'div',
    {
      id: 'images',
      class: 'gallery scroll',
      tabindex: '0',
      role: 'listbox',
      'aria-multiselectable': 'true',
      'aria-label': 'images of the selection',
      'aria-activedescendant': () => (shownTotal.value && !asTable.value ? `image-${cursor.value}` : null),
      hidden: () => asTable.value,
      onmousedown: keepTexts,
      'data-stale': () => list.value.stale,
    },
    inner,
    notes,
  );
  const grid = virtual(
    box,
    inner,
    () => (asTable.value ? 0 : shownTotal.value),
    width => {
      const across = Math.max(1, Math.floor((width - GAP) / (side.value + GAP)));
      const spare = Math.max(0, width - GAP - across * (side.value + GAP));
      const each = side.value + GAP + Math.floor(spare / across);
      return {
        across,
        height: side.value + 6 + lineCount() * LINE + GAP,
        left: at => GAP + at * each,
        top: GAP,
        width: `${side.value}px`,
      };
    },
    cell,
    need,
  );
  followPlace(grid);
  return {box, grid};
}

/** @param {Grid} grid */
export function followPlace(grid) {
  effect(() => {
    void [query.value, sort.value, view.value.desc];
    if (openIndex.peek() < 0) {
      cursor.value = 0;
      grid.top();
    }
  });
  effect(() => {
    if (openIndex.value >= 0) cursor.value = openIndex.value;
  });
  effect(() => {
    const at = cursor.value;
    requestAnimationFrame(() => grid.scrollTo(at)); // after the detail beside has taken its place
  });
}

export function notes() {
  const {total, stale, error, order} = list.value;
  if (error) return h('p', {class: 'notice'}, error);
  if (!total && !stale && order)
    return h('p', {class: 'notice'}, 'No image is in this selection. Remove a filter above.');
  if (total > MOST)
    return h(
      'p',
      {class: 'notice'},
      `The first ${MOST.toLocaleString('en')} are here: filter, or sort the other way. An export has all.`,
    );
  return null;
}

/** @param {number} index @param {MouseEvent} event */
export function clicked(index, event) {
  const row = rowAt(index);
  if (!row) return;
  if (event.shiftKey) chooseRange(cursor.peek(), index);
  else {
    cursor.value = index;
    if (event.ctrlKey || event.metaKey) choose(row.key);
    else go({image: row.key}, Boolean(view.peek().image));
  }
}

/** Shift and a click choose all up to an image, instead of marking the texts up to it. @param {MouseEvent} event */
export function keepTexts(event) {
  if (!event.shiftKey) return;
  event.preventDefault();
  /** @type {HTMLElement} */ (event.currentTarget).focus(); // as without Shift
}

/** Show the picture of a row as long as the effect around runs.
 * @param {HTMLImageElement} image @param {Computed<Row | undefined>} row @param {() => number} pixels */
export function follow(image, row, pixels) {
  effect(() => {
    const [now, of] = [row.value, run.value];
    if (now && of) return show(image, of, step.value, now, pixels());
    image.removeAttribute('src');
  });
}

/** @param {Row | undefined} row */
const isChosen = row => Boolean(row && chosen.value.has(row.key));

/** @param {number} index @param {Row | undefined} row */
export const look = (index, row) =>
  [
    row ? row.verdict : 'empty',
    isChosen(row) ? 'chosen' : '',
    cursor.value === index ? 'cursor' : '',
    openIndex.value === index ? 'open' : '',
  ].join(' ');

/** @param {number} index */
function cell(index) {
  const row = computed(() => rowAt(index));
  const image = h('img', {alt: '', decoding: 'async', draggable: 'false'});
  follow(image, row, () => (side.value <= 128 ? 128 : 256));
  image.addEventListener('load', () => {
    // Pixels that are enlarged stay pixels.
    image.classList.toggle('small', Math.max(image.naturalWidth, image.naturalHeight) < side.peek());
  });
  const lines = computed(() => (row.value ? captions(row.value) : []));
  return h(
    'div',
    {
      id: `image-${index}`,
      role: 'option',
      'aria-posinset': index + 1,
      'aria-setsize': () => list.value.total,
      'aria-selected': () => isChosen(row.value),
      class: () => `cell ${look(index, row.value)}`,
      onclick: event => clicked(index, event),
    },
    h(
      'div',
      {class: 'frame', style: () => ({height: `${side.value}px`})},
      image,
      h(
        'span',
        {
          class: 'pick',
          title: 'Choose (x)',
          onclick: event => {
            event.stopPropagation();
            const now = row.peek();
            if (event.shiftKey) chooseRange(cursor.peek(), index);
            else if (now) choose(now.key);
            cursor.value = index;
          },
        },
        icon(TICK),
      ),
      () =>
        row.value?.tags.length
          ? h(
              'span',
              {class: 'flag', title: row.value.tags.join(', ')},
              icon(FLAG, `tags: ${row.value.tags.join(', ')}`),
            )
          : null,
    ),
    [0, 1, 2].map(at => h('div', {class: 'caption', hidden: () => at >= lineCount()}, () => lines.value[at])),
  );
}
