// Which cells of a matrix are drawn. Run by tests/tab/test_page.py.
import assert from 'node:assert/strict';
import test from 'node:test';
import {cellsInSight, LABELS} from './static/matrix_canvas.js';

/** All cells of a matrix, with counts that tell which they are. */
function full(classes) {
  const all = [...Array(classes * classes).keys()];
  const rows = Int32Array.from(all, i => Math.floor(i / classes));
  const columns = Int32Array.from(all, i => i % classes);
  const counts = {
    cells: {rows, columns, counts: Int32Array.from(all, i => i + 1)},
    rowSums: new Float64Array(classes).fill(8),
    columnSums: new Float64Array(classes).fill(4),
  };
  const order = [...Array(classes).keys()];
  return {
    order,
    place: Int32Array.from(order),
    counts,
    diagonal: true,
    log: false,
    count: '',
    part: {x: 0, y: 0, k: classes},
  };
}

test('no cell takes the place of another at any size', () => {
  for (const classes of [1, 3, 10, 37, 100])
    for (let size = 240; size < 900; size += 7) {
      const {cells, most} = cellsInSight({...full(classes), size});
      const drawn = [...cells];
      assert.equal(drawn.length, classes * classes, `${classes} classes at ${size}`);
      assert.equal(new Set(drawn.map(cell => cell.value)).size, drawn.length);
      assert.deepEqual(most, [classes > 1 ? classes * classes - 1 : 0, classes * classes]);
    }
});

test('a part in sight has its cells, also those that are cut', () => {
  for (const x of [0, 0.5, 1 / 3, 6.123]) {
    const now = {...full(10), size: 500, part: {x, y: 0, k: 4}};
    const columns = [...cellsInSight(now).cells].filter(cell => cell.y === LABELS).map(cell => cell.value - 1);
    assert.deepEqual(
      columns,
      [...Array(10).keys()].filter(at => at > x - 1 && (at - x) * 101 < 500),
    );
  }
});

test('where cells share a pixel the greatest is drawn, and those on the diagonal', () => {
  const now = {...full(500), size: LABELS + 250};
  const drawn = [...cellsInSight(now).cells];
  assert.equal(drawn.length, 250 * 250);
  assert.equal(drawn.filter(cell => cell.same).length, 250);
  const last = drawn.find(cell => Math.floor(cell.x) === LABELS && Math.floor(cell.y) === LABELS + 249);
  assert.equal(last.value, 499 * 500 + 1 + 1);
});

test('shares are of the row or of the column, and the diagonal may be left out', () => {
  const values = count =>
    [...cellsInSight({...full(2), size: 300, count, diagonal: false}).cells].map(cell => cell.value);
  assert.deepEqual(values(''), [2, 3]);
  assert.deepEqual(values('row'), [2 / 8, 3 / 8]);
  assert.deepEqual(values('column'), [2 / 4, 3 / 4]);
});
