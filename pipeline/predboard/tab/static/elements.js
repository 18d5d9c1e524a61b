// @ts-check
/** Signals, effects, elements that follow them, canvases, long lists. It knows nothing of predictions, nor of
 * TensorBoard. */
import {apart} from './query.js';

/** @type {Reader | null} */
let reading = null;
/** @type {Reader | null} */
let owner = null;
/** @type {Set<Reader>} */
const waiting = new Set();
let depth = 0;

/** @param {Reader | {version: number, readers: Set<any>}} source */
function track(source) {
  if ('run' in source) refresh(source);
  if (reading) {
    reading.sources.set(source, source.version);
    source.readers.add(reading);
  }
}

/** @param {{readers: Set<any>}} source */
function spoil(source) {
  for (const reader of source.readers) {
    if (reader.effect) waiting.add(reader);
    else if (!reader.stale) {
      reader.stale = true;
      spoil(reader);
    }
  }
}

/** @param {Reader} reader */
function outdated(reader) {
  if (!reader.sources.size) return true;
  for (const [source, version] of reader.sources) {
    if ('run' in source) refresh(source);
    if (source.version !== version) return true;
  }
  return false;
}

/** @param {Reader} reader */
function refresh(reader) {
  if (reader.effect || !reader.stale) return;
  if (outdated(reader)) again(reader);
  reader.stale = false;
}

/** @param {Reader} reader */
function again(reader) {
  for (const source of reader.sources.keys()) source.readers.delete(reader);
  reader.sources.clear();
  for (const end of reader.owned.splice(0)) end();
  const before = [reading, owner];
  reading = reader;
  owner = reader.effect ? reader : null;
  try {
    reader.run();
  } finally {
    [reading, owner] = before;
  }
}

function flush() {
  if (depth) return;
  depth++;
  try {
    for (let turn = 0; waiting.size; turn++) {
      if (turn > 100) throw new Error('effects that set what they follow');
      const all = [...waiting];
      waiting.clear();
      for (const reader of all) {
        try {
          if (reader.sources.size && outdated(reader)) again(reader);
        } catch (error) {
          queueMicrotask(() => {
            throw error; // reported as ever, and no other view is kept from following
          });
        }
      }
    }
  } finally {
    depth--;
  }
}

/** @template T @param {T} value @returns {Signal<T>} */
export function signal(value) {
  const source = {version: 0, readers: new Set()};
  return {
    get value() {
      track(source);
      return value;
    },
    set value(next) {
      if (Object.is(next, value)) return;
      value = next;
      source.version++;
      spoil(source);
      flush();
    },
    peek: () => value,
  };
}

/** @param {() => void} run @param {boolean} effect @returns {Reader} */
const reader = (run, effect) => ({
  version: 0,
  readers: new Set(),
  sources: new Map(),
  stale: true,
  run,
  effect,
  owned: [],
});

/** A value made of others, anew when one of them has changed and it is read. @template T @param {() => T} make
 * @returns {Computed<T>} */
export function computed(make) {
  /** @type {any} */
  let value;
  const node = reader(() => {
    const next = make();
    if (!Object.is(next, value)) node.version++;
    value = next;
  }, false);
  return {
    get value() {
      track(node);
      return value;
    },
    peek: () => {
      refresh(node);
      return value;
    },
  };
}

/** Run now, and again whenever something that it reads has changed. What it returns is called before that.
 * @param {() => void | (() => void)} act @returns {() => void} ends it */
export function effect(act) {
  const node = reader(() => {
    const end = act();
    if (end) node.owned.push(end);
  }, true);
  const end = () => {
    for (const source of node.sources.keys()) source.readers.delete(node);
    node.sources.clear();
    for (const inner of node.owned.splice(0)) inner();
  };
  owner?.owned.push(end);
  again(node);
  return end;
}

/** @param {() => void} change */
export function batch(change) {
  depth++;
  try {
    change();
  } finally {
    depth--;
  }
  flush();
}

/** A name in its own direction, which keeps its end where there is no room for all of it; a pointer and screen readers
 * get all. @param {string} text @param {string} [other] what it has to be told from */
export function named(text, other) {
  const [head, tail] = apart(text, other);
  const all = text.slice(0, 1000);
  if (!tail) return h('bdi', {class: 'name', title: all}, all);
  const parts = [head.slice(0, 200), tail].map(part => h('span', {'aria-hidden': 'true'}, part));
  return h('bdi', {class: 'name halves', title: all}, h('span', {class: 'unseen'}, all), parts);
}

/** Read without following; what begins `apart` is not ended when the effect around it runs again.
 * @template T @param {() => T} read @param {boolean} [apart] @returns {T} */
export function untracked(read, apart = false) {
  const before = [reading, owner];
  reading = null;
  if (apart) owner = null;
  try {
    return read();
  } finally {
    [reading, owner] = before;
  }
}

const SVG = 'http://www.w3.org/2000/svg';

/**
 * An element. A property that is a function is followed, unless it begins with `on`, which listens. A child that is a
 * function is followed too. Texts become text nodes, whatever is in them.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Properties | null} [properties] @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties, ...children) {
  return /** @type {any} */ (build(document.createElement(tag), properties ?? {}, children));
}

/** @param {string} tag @param {Record<string, any>} properties @param {...Child} children */
export function s(tag, properties, ...children) {
  return /** @type {SVGElement} */ (build(document.createElementNS(SVG, tag), properties, children));
}

/** @param {Element} element @param {Record<string, any>} properties @param {any[]} children */
function build(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (typeof value === 'function') effect(() => put(element, name, value()));
    else put(element, name, value);
  }
  append(element, children);
  // A select takes its value when its options are there.
  if (element instanceof HTMLSelectElement && 'value' in properties) {
    const value = properties.value;
    if (typeof value === 'function') effect(() => put(element, 'value', value()));
    else element.value = value;
  }
  return element;
}

const AS_PROPERTIES = new Set(['value', 'checked', 'disabled', 'hidden', 'selected']);

/** @param {any} element @param {string} name @param {any} value */
function put(element, name, value) {
  if (AS_PROPERTIES.has(name) && !(element instanceof HTMLOptionElement && name === 'value')) {
    if (element[name] !== value) element[name] = value ?? '';
  } else if (name === 'style') {
    for (const [key, to] of Object.entries(value)) element.style.setProperty(key, to);
  } else if (value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, String(value));
}

/** @param {Element} element @param {any[]} children */
function append(element, children) {
  for (const child of children.flat(9)) {
    if (typeof child === 'function') follow(element, child);
    else if (child !== null && child !== undefined && child !== false && child !== true)
      element.append(child instanceof Node ? child : String(child));
  }
}

/** Children that are made anew when what they follow has changed; an element with an id keeps the focus.
 * @param {Element} element @param {() => any} make */
function follow(element, make) {
  const end = document.createTextNode('');
  element.append(end);
  /** @type {Node[]} */
  let nodes = [];
  effect(() => {
    const holder = document.createElement('div');
    append(holder, [make()]);
    const focused = document.activeElement;
    const id = focused && nodes.some(node => node.contains(focused)) ? focused.id || '*' : '';
    for (const node of nodes) /** @type {ChildNode} */ (node).remove();
    nodes = [...holder.childNodes];
    end.before(...nodes);
    if (id) (document.getElementById(id) ?? document.getElementById('images'))?.focus({preventScroll: true});
  });
}

/** @param {string} path @param {string} [name] for screen readers */
export function icon(path, name) {
  const hidden = name ? {role: 'img', 'aria-label': name} : {'aria-hidden': 'true'};
  return s('svg', {viewBox: '0 0 16 16', class: 'icon', ...hidden}, s('path', {d: path}));
}

/** @param {string} name */
export const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** @param {string} name @returns {[number, number, number]} */
export function rgb(name) {
  return /** @type {any} */ ([1, 3, 5].map(i => Number.parseInt(colour(name).slice(i, i + 2), 16)));
}

/** @param {HTMLCanvasElement} canvas @param {number} width @param {number} height */
export function prepare(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const g = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
  g.scale(ratio, ratio);
  g.font = '11px system-ui, sans-serif';
  g.textBaseline = 'middle';
  return g;
}

/** The room of an element, followed. A hidden tab has no height, and keeps the size that it had.
 * @param {Element} element */
export function sizeOf(element) {
  const size = signal({width: 0, height: 0});
  new ResizeObserver(() => {
    const {clientWidth: width, clientHeight: height} = element;
    if (height > 0 && (width !== size.peek().width || height !== size.peek().height)) size.value = {width, height};
  }).observe(element);
  return size;
}

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
