// @ts-check
/** Many items in a box that scrolls, of which only those in sight are elements. It knows nothing of the items. */
import {effect, signal, sizeOf, untracked} from './elements.js';

/** @type {Virtual} */
export const virtual = (box, inner, count, layoutOf, build, sees) => {
  const size = sizeOf(box);
  const range = signal({first: 0, end: 0});
  /** @type {Map<number, {element: HTMLElement, end: () => void}>} */
  const items = new Map();
  /** @type {Layout} */
  let layout = layoutOf(800);

  function measure() {
    const {height} = size.peek();
    const first = Math.max(0, Math.floor((box.scrollTop - layout.top) / layout.height) - 1) * layout.across;
    const lines = Math.ceil(height / layout.height) + 3;
    const end = Math.min(untracked(count), first + lines * layout.across);
    const {first: oldFirst, end: oldEnd} = range.peek();
    if (first !== oldFirst || end !== oldEnd) range.value = {first, end};
  }

  box.addEventListener('scroll', measure, {passive: true});

  effect(() => {
    const {width} = size.value;
    const before = layout;
    const top = Math.max(0, Math.floor((box.scrollTop - layout.top) / layout.height)) * layout.across;
    layout = layoutOf(width || 800);
    inner.style.height = `${layout.top + Math.ceil(count() / layout.across) * layout.height}px`;
    if (before.across !== layout.across || before.height !== layout.height) {
      box.scrollTop = Math.floor(top / layout.across) * layout.height; // the same items stay in sight
      for (const [index, {element}] of items) put(element, index);
    }
    measure();
  });

  /** @param {HTMLElement} element @param {number} index */
  function put(element, index) {
    const [x, y] = [layout.left(index % layout.across), layout.top + Math.floor(index / layout.across) * layout.height];
    element.style.transform = `translate(${x}px, ${y}px)`;
    element.style.width = layout.width;
  }

  effect(() => {
    const {first, end} = range.value;
    for (const [index, item] of items)
      if (index < first || index >= end) {
        item.end();
        item.element.remove();
        items.delete(index);
      }
    for (let index = first; index < end; index++) {
      if (items.has(index)) continue;
      /** @type {HTMLElement} */
      let element = document.createElement('div');
      // Built apart from this effect, which would end what it owns whenever it runs again.
      const stop = untracked(
        () =>
          effect(() =>
            untracked(() => {
              element = build(index);
            }),
          ),
        true,
      );
      put(element, index);
      items.set(index, {element, end: stop});
      inner.append(element);
    }
    untracked(() => sees(first, end));
  });

  return {
    across: () => layout.across,
    lines: () => Math.max(1, Math.floor(size.peek().height / layout.height)),
    /** @param {number} index */
    scrollTo(index) {
      const y = layout.top + Math.floor(index / layout.across) * layout.height;
      if (y - layout.top < box.scrollTop) box.scrollTop = y - layout.top;
      else if (y + layout.height > box.scrollTop + box.clientHeight)
        box.scrollTop = y + layout.height - box.clientHeight;
      measure();
    },
    top() {
      box.scrollTop = 0;
      measure();
    },
  };
};
