// @ts-check
/** What covers the page: the sheet of keys, and one image enlarged. It knows nothing of what was predicted. */
import {h, icon} from './elements.js';
import {imageAddress} from './api.js';
import {CROSS} from './gallery.js';
import {run, step} from './state.js';

const KEYS = {
  Anywhere: [
    ['e', 'wrong ones only, and all again'],
    ['/', 'search the paths'],
    ['[  ]', 'step before, step after'],
    ['g', 'pictures or table'],
    ['m', 'go to the matrix'],
    ['i', 'go to the images'],
    ['l', 'copy a link to this view'],
    ['u', 'undo the last tag'],
    ['?', 'this sheet'],
    ['Esc', 'close, choose none, remove a filter'],
  ],
  Images: [
    ['← → ↑ ↓', 'move, and open if one is open'],
    ['Enter', 'open'],
    ['x or Space', 'choose; Shift and arrows: several'],
    ['Ctrl A', 'choose all that are loaded'],
    ['r  h', 'tag relabel, tag hard'],
    ['t', 'tag with a word of your own'],
    ['Home  End', 'first, last'],
  ],
  'One image open': [
    ['z', 'zoom over the whole window: wheel, + − 0'],
    ['c', 'copy its path'],
    ['a  k', 'suspected label: accept what is suggested, keep it'],
  ],
  Matrix: [
    ['← → ↑ ↓', 'move over cells and names'],
    ['Enter', 'select the cell, row or column'],
    ['+  −  0', 'zoom in, out, show all'],
  ],
};

export function openHelp() {
  const dialog = h(
    'dialog',
    {
      class: 'help',
      'aria-label': 'Keys',
      onclose: () => dialog.remove(),
      onclick: e => {
        if (e.target === dialog) dialog.close();
      },
      onkeydown: e => {
        e.stopPropagation();
        if (e.key === '?') dialog.close();
      },
    },
    h('h2', null, 'Keys'),
    h(
      'div',
      {class: 'groups'},
      Object.entries(KEYS).map(([group, keys]) =>
        h(
          'section',
          null,
          h('h3', null, group),
          h(
            'table',
            null,
            keys.map(([key, words]) =>
              h(
                'tr',
                null,
                h(
                  'th',
                  {scope: 'row'},
                  key.split(/ {2,}/).map(one => h('kbd', null, one)),
                ),
                h('td', null, words),
              ),
            ),
          ),
        ),
      ),
    ),
    h(
      'p',
      {class: 'faint'},
      'Ctrl-click chooses an image, Shift-click all up to it. The address holds the whole view.',
    ),
    h('button', {autofocus: true, onclick: () => dialog.close()}, 'Close'),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** The wheel zooms, dragging moves, 0 fits. @param {Row | null} row */
export function zoom(row) {
  const now = run.peek();
  if (!now || !row) return;
  const image = h('img', {class: 'zoomed', alt: '', draggable: 'false'});
  let [scale, x, y, fit] = [1, 0, 0, 1];
  const apply = () => {
    image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    image.classList.toggle('small', scale > 1);
    readout.textContent = `${Math.round(100 * scale)} % of ${image.naturalWidth} × ${image.naturalHeight}`;
  };
  const whole = () => {
    fit = Math.min(dialog.clientWidth / image.naturalWidth, dialog.clientHeight / image.naturalHeight);
    scale = fit > 1 ? Math.max(1, Math.floor(fit)) : fit; // whole multiples keep pixels square
    [x, y] = [
      (dialog.clientWidth - image.naturalWidth * scale) / 2,
      (dialog.clientHeight - image.naturalHeight * scale) / 2,
    ];
    apply();
  };
  /** @param {number} by @param {number} px @param {number} py */
  const zoomBy = (by, px, py) => {
    const next = Math.max(Math.min(fit, 1) / 2, Math.min(64, scale * by));
    [x, y] = [px - ((px - x) * next) / scale, py - ((py - y) * next) / scale];
    scale = next;
    apply();
  };
  const readout = h('span', {class: 'zoom-readout'});
  /** @type {{x: number, y: number} | null} */
  let drag = null;
  const dialog = h(
    'dialog',
    {
      class: 'zoom',
      'aria-label': 'image, enlarged',
      onwheel: e => {
        e.preventDefault();
        zoomBy(e.deltaY > 0 ? 0.8 : 1.25, e.clientX, e.clientY);
      },
      onpointerdown: e => {
        if (e.target !== closer) drag = {x: e.clientX - x, y: e.clientY - y};
      },
      onpointermove: e => {
        if (drag) {
          [x, y] = [e.clientX - drag.x, e.clientY - drag.y];
          apply();
        }
      },
      onpointerup: () => {
        drag = null;
      },
      ondblclick: whole,
      onkeydown: (/** @type {KeyboardEvent} */ e) => {
        const middle = /** @type {[number, number]} */ ([dialog.clientWidth / 2, dialog.clientHeight / 2]);
        const by = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]}[e.key];
        e.stopPropagation();
        if (e.key === '+' || e.key === '=') zoomBy(1.25, ...middle);
        else if (e.key === '-') zoomBy(0.8, ...middle);
        else if (e.key === '0') whole();
        else if (e.key === 'z') dialog.close();
        else if (by) {
          [x, y] = [x + by[0], y + by[1]];
          apply();
        } else return;
        e.preventDefault();
      },
      onclose: () => dialog.remove(),
    },
    image,
    readout,
  );
  const closer = h(
    'button',
    {class: 'zoom-close', title: 'Close (Esc)', onclick: () => dialog.close()},
    icon(CROSS, 'close'),
  );
  dialog.append(closer);
  image.addEventListener('load', whole);
  image.src = imageAddress(now, step.peek(), row.id, 2048);
  document.body.append(dialog);
  dialog.showModal();
}
