// The words and numbers of a query. Run by tests/tab/test_page.py.
import assert from 'node:assert/strict';
import test from 'node:test';
import {commandOf} from './static/command.js';
import * as query from './static/query.js';

test('a range is read and written with either end open', () => {
  assert.deepEqual(query.parseRange('.5..'), [0.5, null]);
  assert.deepEqual(query.parseRange('..2'), [null, 2]);
  assert.deepEqual(query.parseRange('-1e-3..4'), [-0.001, 4]);
  assert.deepEqual(query.parseRange('x'), [null, null]);
  assert.equal(query.formatRange(0.25, null), '0.25..');
  assert.equal(query.formatRange(null, null), '');
  assert.equal(query.rangeWords('.9..'), '≥ 0.9');
  assert.equal(query.rangeWords('..0'), '≤ 0');
});

test('values of a category come back whatever they hold', () => {
  for (const values of [['a'], ['a|b', 'c'], ['\\', '|'], [null], [null, 'N'], [''], ['\\N', null], ['a\\|', '']])
    assert.deepEqual(
      query.parseValues(query.formatValues(values)),
      values.length === 1 && values[0] === '' ? [] : values,
    );
  assert.deepEqual(query.parseValues('a\\|b|\\N'), ['a|b', null]); // as the server writes them
  assert.deepEqual(query.toggled(['a', 'b'], 'a'), ['b']);
  assert.deepEqual(query.toggled(['b'], null), ['b', null]);
});

test('a share is 100 % only if it is all', () => {
  assert.deepEqual([1, 0.99999, 0.9991, 0, 0.00001, null, NaN].map(query.percent), [
    '100.0 %',
    '> 99.9 %',
    '99.9 %',
    '0.0 %',
    '< 0.1 %',
    '–',
    '–',
  ]);
});

test('numbers are short', () => {
  assert.deepEqual([12, 1234567, 1234.5, 2.34567, 0.012345, 1e-9, null].map(query.short), [
    '12',
    '1,234,567',
    '1235',
    '2.35',
    '0.0123',
    '1e-9',
    '–',
  ]);
});

test('the query has the run, what is compared with, and filters; nothing else', () => {
  const view = {true: '3', sort: 'loss', other: 'a@1', 's.site': 'x', image: '5', pane: 'map'};
  assert.equal(query.queryText(view, 'r/1', '2'), 'run=r%2F1&step=2&other=a%401&true=3&s.site=x');
  assert.equal(query.queryText(view, 'r', '2', ['true', 's.site']), 'run=r&step=2&other=a%401');
  assert.deepEqual(query.filtersOf({'n.b': '1..', q: 'x', right: '0', 's.a': 'y'}), ['right', 'q', 'n.b', 's.a']);
});

test('a chip tells what its filter asks for', () => {
  const name = index => ['cat', 'dog', 'cow', 'x'.repeat(10000)][index];
  const words = (key, value) => query.chipWords(key, {[key]: value}, name);
  assert.equal(words('true', '0'), 'true: cat');
  assert.equal(words('pred', '0,1,2,3'), 'predicted: cat, dog and 2 more');
  assert.equal(words('true', '-1'), 'no label');
  assert.equal(words('right', '0'), 'wrong');
  assert.equal(words('kind', 'both_wrong'), 'wrong the same');
  assert.equal(words('kind', 'constructor'), 'constructor');
  assert.equal(words('confidence', '.9..'), 'confidence ≥ 0.9');
  assert.equal(words('n.width', '1..2'), 'width 1 to 2');
  assert.equal(words('s.site', 'A|\\N'), 'site: A or none');
  assert.equal(words('tag', '!'), 'no tag');
  assert.ok(words('true', '3').length < 60);
});

test('long names of two classes keep what tells them apart', () => {
  assert.deepEqual(query.apart('HerbaceousVegetation', 'River'), ['HerbaceousVege', 'tation']);
  assert.deepEqual(query.apart('amber babird 0000', 'amber bafish 0001'), ['amber b', 'abird 0000']);
  assert.deepEqual(query.apart('amber bafish 0001', 'amber bafish 0002'), ['amber bafis', 'h 0001']);
  assert.deepEqual(query.apart('short', 'shore'), ['short', '']);
  assert.deepEqual(query.apart('twelve letters and 🦊🦊🦊'), ['twelve letters and ', '🦊🦊🦊']);
  assert.deepEqual(query.apart(`twelve letters a${'e\u0301'.repeat(3)}`), ['twelve letters a', 'e\u0301'.repeat(3)]);
  assert.deepEqual(query.apart(`twelve letters a${'e\u0301'.repeat(2)}b`), ['twelve letters ', 'ae\u0301e\u0301b']);
});

test('a count says of which selection it is', () => {
  const view = {other: 'net@9', kind: 'broken', true: '8', right: '0'};
  const name = () => 'River';
  assert.equal(query.filterWords(view, ['kind', 'was'], name), ' (true: River; wrong)');
  assert.equal(query.filterWords({other: 'net@9', kind: 'broken'}, ['kind', 'was'], name), '');
});

test('a selection is a command that a shell takes, or none', () => {
  const classes = ['River', "O'Hara, creek", '0'];
  const say = view => commandOf(view, 'my logs/net', classes, '12', 'loss', true);
  assert.equal(
    say({true: '0,2', right: '0', confidence: '.9..', 's.site': 'A|\\N', 'n.year': '2001..'}),
    "predboard rows 'my logs/net' --step=12 --true=River,0 --wrong --confidence=.9.. " +
      '--where=year=2001..,site=A,site= --sort=loss',
  );
  assert.ok(say({pred: '1'}).includes(`'--predicted=O'\\''Hara, creek'`));
  assert.ok(say({true: '-1', q: '$(x)'}).includes("--true=-1 '--text=$(x)'"));
  assert.ok(say({other: 'net@9', was: '0', lost: '2'}).includes('--other=net@9 --was=River --lost=0'));
  for (const view of [{lasso: '1,2,3,4,5,6'}, {true: '0,1'}, {'s.site': 'a,b'}]) assert.equal(say(view), '');
});
