// @ts-check
/** Requests to the server: JSON, arrays, pictures in batches. It knows nothing of what is shown. */
import {computed, effect, h, signal, untracked} from './elements.js';

export class Refusal extends Error {}

/** @param {string} address @param {RequestInit} options */
async function ask(address, options) {
  const answer = await fetch(`./${address}`, options).catch(error => {
    throw isAborted(error) ? error : new Refusal('TensorBoard does not answer: was it stopped?');
  });
  if (answer.ok) return answer;
  const {error} = await answer.json().catch(() => ({error: `the server answered ${answer.status}`}));
  throw new Refusal(error);
}

/** @param {any} error */
export const isAborted = error => error?.name === 'AbortError';

/** @param {string} address @param {AbortSignal} [abort] @returns {Promise<any>} */
export const getJson = async (address, abort) => (await ask(address, {signal: abort})).json();

/** @param {string} address @param {AbortSignal} [abort] @returns {Promise<ArrayBuffer>} */
export const getArray = async (address, abort) => (await ask(address, {signal: abort})).arrayBuffer();

/** Post with a header that pages of other sites cannot send. @param {string} route @param {object} body
 * @returns {Promise<any>} */
export async function post(route, body) {
  const headers = {'Content-Type': 'application/json', 'X-Predboard': '1'};
  return (await ask(route, {method: 'POST', headers, body: JSON.stringify(body)})).json();
}

/** Follow an address; what else it is made of may change without it.
 * @template T @param {() => string} address empty for nothing
 * @param {(address: string, abort: AbortSignal) => Promise<T>} get
 * @returns {Signal<Resource<T>>} */
export function resource(address, get) {
  /** @type {Resource<T>} */
  const none = {data: null, address: '', error: '', stale: false};
  const state = signal(none);
  const followed = computed(address);
  effect(() => {
    const wanted = followed.value;
    if (!wanted) {
      state.value = none;
      return;
    }
    const abort = new AbortController();
    state.value = {...state.peek(), stale: true};
    untracked(() => get(wanted, abort.signal)).then(
      data => {
        if (!abort.signal.aborted) state.value = {data, address: wanted, error: '', stale: false};
      },
      error => {
        if (!abort.signal.aborted && !isAborted(error))
          state.value = {data: null, address: wanted, error: error.message, stale: false};
      },
    );
    return () => abort.abort();
  });
  return state;
}

/** @param {Signal<Resource<any>>} of */
export const failure = of => () => (of.value.error ? h('p', {class: 'notice'}, of.value.error) : null);

/** @param {Versioned} run @param {string | number} step @param {number} id @param {number} side */
export function imageAddress(run, step, id, side) {
  const asked = {run: run.name, step: String(step), id: String(id), side: String(side), v: run.version};
  return `./image?${new URLSearchParams(asked)}`;
}

const BATCH = 24;
const KEEP = 3000;

/** @type {Map<string, Picture>} */
const pictures = new Map();
/** @type {Map<string, {run: Versioned, step: string, side: number, ids: number[]}>} */
const wanted = new Map();
let timer = 0;

/** @param {Versioned} run */
export const runKey = run => `${run.name}\n${run.version}`;

/** Whether a run has pictures, of which some may lack. @type {Signal<Record<string, boolean>>} */
export const pictured = signal({});

/** @param {Versioned} run @param {string} step @param {number} side @param {number} id */
const pictureKey = (run, step, side, id) => `${runKey(run)}\n${step}\n${side}\n${id}`;

/** Ask for a small picture; many are fetched in one request, for a server in Python takes about a millisecond for each.
 * @type {AskPicture} */
export const picture = (run, step, id, side, use) => {
  const key = pictureKey(run, step, side, id);
  let entry = pictures.get(key);
  if (!entry) {
    entry = {address: '', use: new Set()};
    pictures.set(key, entry);
    const group = `${run.name}\n${step}\n${side}`;
    const batch = wanted.get(group) ?? {run, step, side, ids: []};
    batch.ids.push(id);
    wanted.set(group, batch);
    timer ||= window.setTimeout(fetchWanted);
  }
  if (entry.address) use(entry.address);
  else entry.use.add(use);
  const {use: waiting} = entry;
  return () => waiting.delete(use);
};

function fetchWanted() {
  timer = 0;
  for (const {run, step, side, ids} of wanted.values())
    for (let i = 0; i < ids.length; i += BATCH) fetchBatch(run, step, side, ids.slice(i, i + BATCH));
  wanted.clear();
  let over = pictures.size - KEEP;
  for (const [key, {address, use}] of pictures) {
    if (over-- <= 0) break;
    if (!address || use.size) continue;
    if (address !== 'none') URL.revokeObjectURL(address);
    pictures.delete(key);
  }
}

/** Ask for pictures; where no answer comes, they are asked for again when they are next in sight.
 * @param {Versioned} run @param {string} step @param {number} side @param {number[]} ids */
async function fetchBatch(run, step, side, ids) {
  const query = new URLSearchParams({run: run.name, step, side: String(side), ids: ids.join(), v: run.version});
  /** @type {ArrayBuffer | null} */
  let body = null;
  try {
    body = await getArray(`images?${query}`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
  const sizes = body ? new Uint32Array(body, 0, ids.length) : null;
  const [known, of] = [pictured.peek(), runKey(run)];
  if (sizes && !known[of]) pictured.value = {...known, [of]: sizes.some(Boolean)};
  let at = 4 * ids.length;
  ids.forEach((id, i) => {
    const entry = pictures.get(pictureKey(run, step, side, id));
    const size = sizes?.[i] ?? 0;
    if (entry) {
      entry.address = size && body ? URL.createObjectURL(new Blob([new Uint8Array(body, at, size)])) : 'none';
      for (const use of entry.use) use(entry.address);
      entry.use.clear();
      if (!body) pictures.delete(pictureKey(run, step, side, id));
    }
    at += size;
  });
}
