// Signals, the address, and the view that is in it. Run by tests/tab/test_page.py.
import assert from 'node:assert/strict';
import test from 'node:test';
import {batch, computed, effect, signal} from './static/elements.js';

const history = {state: {namespace: 7}, calls: []};
for (const kind of ['pushState', 'replaceState'])
  history[kind] = (state, _, url) => {
    history.calls.push([kind, state]);
    globalThis.location.hash = url.slice(url.indexOf('#'));
  };
globalThis.location = {hash: '', pathname: '/tb/', search: '?a=1', origin: 'http://host'};
globalThis.history = history;
const listeners = {};
const addEventListener = (kind, act) => {
  listeners[kind] = act;
};
Object.assign(globalThis, {window: globalThis, parent: {location: globalThis.location, history, addEventListener}});

const host = await import('./static/host.js');
const state = await import('./static/state.js');

test('an effect runs once for all that changed, and not for what came out the same', () => {
  const [a, b] = [signal(1), signal(2)];
  const sum = computed(() => a.value + b.value);
  const even = computed(() => sum.value % 2 === 0);
  const seen = [];
  const end = effect(() => {
    seen.push(`${sum.value} ${even.value}`);
  });
  batch(() => {
    a.value = 2;
    b.value = 1;
  });
  assert.deepEqual(seen, ['3 false']);
  a.value = 3;
  assert.deepEqual(seen, ['3 false', '4 true']);
  end();
  a.value = 9;
  assert.equal(seen.length, 2);
  assert.equal(sum.peek(), 10);
});

test('an effect ends what it began before it runs again', () => {
  const [outer, inner] = [signal(0), signal(0)];
  const seen = [];
  effect(() => {
    const now = outer.value;
    effect(() => {
      seen.push(`${now} ${inner.value}`);
    });
    return () => seen.push(`end ${now}`);
  });
  outer.value = 1;
  inner.value = 1;
  assert.deepEqual(seen, ['0 0', 'end 0', '1 0', '1 1']);
});

test('the hash holds our keys beside those of others, whatever is in them', () => {
  const values = {run: 'a/b & c=d#e', 's.<b>': 'x|y', q: '%', true: '3'};
  const hash = host.formatHash('#predboard&p.other.key=1&p.predboard.old=2', values);
  assert.ok(hash.startsWith('#predboard&p.other.key=1&p.predboard.'));
  assert.deepEqual({...host.parseHash(hash)}, values);
  assert.deepEqual({...host.parseHash('#predboard&p.predboard.q=%E0%A4%A')}, {q: '%E0%A4%A'}); // cut short
  assert.equal(host.formatHash('', {}), '#predboard');
});

test('what filters is a place to come back to, and closes the image', () => {
  location.hash = '#predboard&p.predboard.image=77&p.predboard.unknown=1';
  state.followAddress();
  assert.deepEqual({...state.view.value}, {image: '77'});
  state.go({right: '0'});
  assert.deepEqual({...state.view.value}, {right: '0'});
  assert.deepEqual(history.calls.pop(), ['pushState', {namespace: 7}]);
  assert.equal(location.hash, '#predboard&p.predboard.right=0');
  state.go({right: '0'});
  assert.equal(history.calls.length, 0);
  location.hash = '#predboard';
  listeners.popstate();
  assert.deepEqual({...state.view.value}, {});
  location.hash = '#scalars&p.predboard.right=1'; // another tab: nothing to follow
  listeners.hashchange();
  assert.deepEqual({...state.view.value}, {});
});

test('the query follows the run, the step and the view', () => {
  const run = {
    name: 'net',
    kind: 'run',
    version: 'v',
    steps: [1, 3],
    labelled: true,
    classes: ['a', 'b'],
    missing: [],
    has: {},
    rows: {},
    columns: [
      {name: 'site', kind: 'category'},
      {name: 'loss', kind: 'number'},
      {name: 'confidence', kind: 'number'},
      {name: 'image', kind: 'text'},
    ],
  };
  location.hash = '#predboard';
  state.runs.value = [{...run, name: 'bad', kind: 'broken'}, run];
  assert.equal(state.query.value, 'run=net&step=3');
  state.go({step: '1', true: '0'});
  assert.equal(state.query.value, 'run=net&step=1&true=0');
  assert.equal(state.queryWithout('true'), 'run=net&step=1');
  assert.equal(state.link(), 'http://host/tb/?a=1#predboard&p.predboard.step=1&p.predboard.true=0&p.predboard.run=net');
  state.go({step: '99'});
  assert.equal(state.step.value, '3');
  assert.equal(state.className(1), 'b');
  assert.equal(state.className(-1), '–');
  assert.deepEqual(
    state.filterable.value.map(column => column.name),
    ['confidence', 'loss', 'site'],
  );
  assert.deepEqual([state.sort.value, state.descending.value], ['loss', true]);
  const ways = {confidence: true, margin: false, suspect: false, id: false, site: false, entropy: true};
  for (const [sort, down] of Object.entries(ways)) {
    state.go({sort});
    assert.equal(state.descending.value, down, sort);
  }
  state.go({desc: '0'});
  assert.equal(state.descending.value, false);
  state.go({sort: '', desc: ''});
  state.runs.value = [{...run, labelled: false}];
  assert.deepEqual([state.sort.value, state.descending.value], ['confidence', false]);
});
