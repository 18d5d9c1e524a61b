// @ts-check
/** What the page around us offers: its address, its theme, its reload, its keys. It knows nothing of predictions. */

const NAME = 'predboard';
const PREFIX = `p.${NAME}.`;

/** @returns {Window} */
export function outside() {
  try {
    void window.parent.location.hash;
    return window.parent;
  } catch {
    return window;
  }
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a link that was cut short
  }
}

/** Our part of a hash such as `#predboard&p.predboard.run=…`. @param {string} hash
 * @returns {Record<string, string>} */
export function parseHash(hash) {
  /** @type {Record<string, string>} */
  const values = Object.create(null);
  for (const token of hash.replace(/^#/, '').split('&')) {
    const at = token.indexOf('=');
    const key = decoded(token.slice(0, Math.max(0, at)));
    if (key.startsWith(PREFIX)) values[key.slice(PREFIX.length)] = decoded(token.slice(at + 1));
  }
  return values;
}

/** @param {string} hash @param {Record<string, string>} values */
export function formatHash(hash, values) {
  const tokens = hash.replace(/^#/, '').split('&').filter(Boolean);
  const tab = tokens.find(token => !token.includes('=')) ?? NAME;
  const others = tokens.filter(token => token.includes('=') && !decoded(token).startsWith(PREFIX));
  const ours = Object.entries(values).map(([k, v]) => `${encodeURIComponent(PREFIX + k)}=${encodeURIComponent(v)}`);
  return '#' + [tab, ...others, ...ours].join('&');
}

export const readHash = () => parseHash(outside().location.hash);

let later = 0;
/** Put values into the address; those that are no place to come back to when they have rested, for browsers throw after
 * some hundred changes within seconds.
 * @param {Record<string, string>} values @param {boolean} push whether Back should come back to what was before */
export function writeHash(values, push) {
  clearTimeout(later);
  if (push) write(values, true);
  else later = window.setTimeout(() => write(values, false), 250);
}

/** @param {Record<string, string>} values @param {boolean} push */
function write(values, push) {
  const {location, history} = outside();
  const hash = formatHash(location.hash, values);
  if (hash === location.hash) return;
  const url = location.pathname + location.search + hash;
  // With its own state: TensorBoard keeps a namespace there, without which it forgets pins and filters.
  history[push ? 'pushState' : 'replaceState'](history.state, '', url);
}

/** The address of the view, after what still waits was written. @param {Record<string, string>} values */
export function addressOf(values) {
  const {location} = outside();
  return location.origin + location.pathname + location.search + formatHash(location.hash, values);
}

export function shown() {
  const window_ = outside();
  return window_ === window || window_.location.hash.slice(1).split('&')[0] === NAME;
}

/** @param {() => void} changed */
export function onAddress(changed) {
  for (const event of ['popstate', 'hashchange'])
    outside().addEventListener(event, () => {
      if (shown()) changed();
    });
}

/** @param {(dark: boolean) => void} changed */
export function followTheme(changed) {
  const around = outside();
  const media = matchMedia('(prefers-color-scheme: dark)');
  const apply = () => {
    const dark = around === window ? media.matches : around.document.body.classList.contains('dark-mode');
    document.documentElement.dataset.theme = dark ? 'dark' : 'light';
    changed(dark);
  };
  apply();
  media.addEventListener('change', apply);
  if (around !== window)
    new MutationObserver(apply).observe(around.document.body, {attributes: true, attributeFilter: ['class']});
}

/** TensorBoard's messages, of which one tells that its data was read again. @param {() => void} reloaded */
export function onReload(reloaded) {
  if (outside() === window) return;
  const {port1, port2} = new MessageChannel();
  port1.onmessage = event => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    if (message.type === 'experimental.DataReloaded') reloaded();
    port1.postMessage(JSON.stringify({type: message.type, id: message.id, payload: null, error: null, isReply: true}));
  };
  window.parent.postMessage('experimental.bootstrap', window.location.origin, [port2]);
}

/** Keys pressed in our frame, and in TensorBoard's own while our tab is shown.
 * @param {(event: KeyboardEvent) => void} handle */
export function onKeys(handle) {
  window.addEventListener('keydown', handle);
  const around = outside();
  if (around !== window)
    around.addEventListener('keydown', event => {
      const at = /** @type {HTMLElement} */ (event.target);
      if (shown() && !/^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName) && !at.isContentEditable) handle(event);
    });
}

/** Copy a text, also where the page came over plain HTTP and the browser has no clipboard for it.
 * @param {string} text @returns {Promise<boolean>} */
export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // refused, for example while the frame has no focus: the old way may still work
    }
  }
  const field = document.createElement('textarea');
  field.value = text;
  field.className = 'unseen';
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  document.body.append(field);
  field.select();
  const copied = document.execCommand('copy');
  field.remove();
  focused?.focus();
  return copied;
}
