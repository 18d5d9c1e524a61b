// @ts-check
/** One image over the whole window: the wheel zooms, dragging moves, 0 fits. It knows nothing of what was predicted. */
import {h, icon} from './elements.js';
import {imageAddress} from './api.js';
import {CROSS} from './gallery.js';
import {run, step} from './state.js';

/** @param {Row | null} row */
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
