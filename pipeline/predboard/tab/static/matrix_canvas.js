// @ts-check
/** Draws a confusion matrix of any number of classes. It knows nothing of the server, nor of what a click does. */
import {colour, prepare, rgb} from './elements.js';
import {apart} from './query.js';

export const LABELS = 96;

/**
 * The cells that are drawn, and the greatest values off the diagonal and on it, also of those that are out of sight.
 * Where several cells share a pixel, the greatest is drawn.
 * @param {any} now @returns {{cells: Iterable<DrawnCell>, most: [number, number]}}
 */
export function cellsInSight(now) {
  const {size, part, order, place, counts, count} = now;
  const cell = (size - LABELS) / part.k;
  const shares = shareOf(counts, count);
  /** @type {[number, number]} */
  const most = [0, 0];
  /** @type {Map<number, DrawnCell>} */
  const visible = new Map();
  const {rows, columns, counts: numbers} = counts.cells;
  for (let i = 0; i < numbers.length; i++) {
    const [x, y] = [place[columns[i]], place[rows[i]]];
    const same = rows[i] === columns[i] ? 1 : 0;
    if (!(x >= 0 && y >= 0) || (same && !now.diagonal)) continue;
    const value = shares(rows[i], columns[i], numbers[i]);
    if (value > most[same]) most[same] = value;
    const [px, py] = [(x - part.x) * cell, (y - part.y) * cell];
    if (px <= -cell || py <= -cell || px >= size || py >= size) continue;
    // By whole numbers: a quotient such as 6.999… would put two cells into one.
    const key = cell < 1 ? Math.floor(px + 1) * 8192 + Math.floor(py + 1) : x * order.length + y;
    const other = visible.get(key);
    if (!other || same > other.same || (same === other.same && value > other.value))
      visible.set(key, {x: LABELS + px, y: LABELS + py, value, same});
  }
  return {cells: visible.values(), most};
}

/** Black or white, whichever is read more easily on a colour over the empty cell (WCAG 2.2, relative luminance).
 * @param {string} name @param {number} strength */
function inkOn(name, strength) {
  const [fill, empty] = [rgb(name), rgb('--cell')];
  const [red, green, blue] = fill.map((part, i) => {
    const value = (part * strength + empty[i] * (1 - strength)) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? '#000' : '#fff';
}

/** @param {any} now */
export function drawCells(now) {
  const {size, part, order, count} = now;
  const canvas = document.createElement('canvas');
  const g = prepare(canvas, size, size);
  const cell = (size - LABELS) / part.k;
  const side = Math.max(cell - (cell > 6 ? 1 : 0), 1);
  const change = now.axes.axes; // neither right nor wrong
  const fills = change ? ['--changed', '--unknown'] : ['--wrong', '--right'];
  const paints = fills.map(colour);
  const ink = colour('--ink');
  g.beginPath();
  g.rect(LABELS, LABELS, size - LABELS, size - LABELS);
  g.clip();
  g.fillStyle = colour('--cell');
  const grid = Math.min(part.k, order.length) * cell;
  g.fillRect(LABELS, LABELS, grid, grid);
  g.textAlign = 'center';
  g.font = `${Math.min(13, Math.max(9, cell / 2.9))}px system-ui, sans-serif`;
  const unit = count ? 1000 : 1;
  const {cells, most} = cellsInSight(now);
  for (const {x, y, value, same} of cells) {
    const strength = now.log ? Math.log1p(unit * value) / Math.log1p(unit * most[same]) : Math.sqrt(value / most[same]);
    g.globalAlpha = same ? 0.12 + 0.58 * strength : 0.16 + 0.84 * strength;
    g.fillStyle = paints[same];
    g.fillRect(x, y, side, side);
    if (cell < 20) continue;
    g.fillStyle = inkOn(fills[same], g.globalAlpha);
    g.globalAlpha = 1;
    g.fillText(cellText(value, count, cell < 28), x + cell / 2, y + cell / 2);
  }
  return {...now, canvas, cell, ink};
}

/** @type {DrawMatrix} */
export const draw = (canvas, layer, cursor, chosenRows, chosenColumns) => {
  const {size, part, place, cell, ink} = layer;
  canvas.style.width = canvas.style.height = `${size}px`;
  const g = prepare(canvas, size, size);
  g.drawImage(layer.canvas, 0, 0, size, size);
  const rows = chosenRows.map(index => place[index]).filter(at => at >= 0);
  const columns = chosenColumns.map(index => place[index]).filter(at => at >= 0);
  const across = size - LABELS;
  /** @param {number} x @param {number} y places; -1 is the whole row or column @param {number} line */
  const frame = (x, y, line) => {
    g.lineWidth = line;
    const [left, top] = [x < 0 ? 0 : (x - part.x) * cell, y < 0 ? 0 : (y - part.y) * cell];
    g.strokeRect(
      LABELS + left + 0.5,
      LABELS + top + 0.5,
      x < 0 ? across - 1 : Math.max(cell - 2, 4),
      y < 0 ? across - 1 : Math.max(cell - 2, 4),
    );
  };
  g.save();
  g.beginPath();
  g.rect(LABELS, LABELS, across, across);
  g.clip();
  g.strokeStyle = ink;
  for (const y of rows.length ? rows : [-1])
    for (const x of columns.length ? columns : [-1]) if (x >= 0 || y >= 0) frame(x, y, 2);
  if (cursor && cursor.x >= 0 && cursor.y >= 0) frame(cursor.x, cursor.y, 1);
  g.restore();
  const names = {row: [...rows, cursor?.y ?? -1], column: [...columns, cursor?.x ?? -1]};
  drawNames(g, layer, names);
  canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
};

/** @param {any} counts @param {string} kind @returns {(row: number, column: number, n: number) => number} */
function shareOf(counts, kind) {
  if (kind === 'row') return (row, _, n) => n / counts.rowSums[row];
  if (kind === 'column') return (_, column, n) => n / counts.columnSums[column];
  return (_row, _column, n) => n;
}

/** @param {number} value @param {string} kind @param {boolean} tight whether four digits are too many */
function cellText(value, kind, tight) {
  if (kind)
    return value > 0.995 && value < 1 ? '.99' : value >= 1 ? '1' : value < 0.005 ? '0' : value.toFixed(2).slice(1);
  if (value >= 100_000) return `${Math.round(value / 1000)}k`;
  return value >= (tight ? 1000 : 10_000) ? `${(value / 1000).toFixed(1)}k` : String(value);
}

/** @type {DrawNames} */
const drawNames = (g, {part, order, axes, cell, ink, name}, bolds) => {
  const faint = colour('--faint');
  const every = Math.max(1, Math.ceil(13 / cell));
  for (const [side, special] of Object.entries(bolds)) {
    const first = side === 'row' ? part.y : part.x;
    for (let at = Math.ceil(first - 0.5); at < Math.min(order.length, first + part.k - 0.4); at++) {
      const bold = special.includes(at);
      if (!bold && (at % every || special.some(other => other >= 0 && Math.abs(other - at) * cell < 13))) continue;
      g.font = `${bold ? '600 ' : ''}11px system-ui, sans-serif`;
      g.fillStyle = bold || every === 1 ? ink : faint;
      g.save();
      g.translate(LABELS - 5, LABELS - 5);
      const middle = (at - first + 0.5) * cell + 4.5;
      if (side === 'row') g.translate(0, middle);
      else {
        g.translate(middle, 0);
        g.rotate(-Math.PI / 2);
      }
      g.textAlign = side === 'row' ? 'right' : 'left';
      g.fillText(fitted(g, name(order[at]), LABELS - 8), 0, 0);
      g.restore();
    }
  }
  g.font = '11px system-ui, sans-serif';
  g.fillStyle = faint;
  g.textAlign = 'left';
  g.fillText(`${axes.columnWord} →`, 4, 10);
  g.fillText(`${axes.rowWord} ↓`, 4, 25);
};

/** A name that has room, with an ellipsis before its end if it must. @param {CanvasRenderingContext2D} g
 * @param {string} text @param {number} width */
function fitted(g, text, width) {
  const [head, tail] = apart(text);
  const cut = head.slice(0, 60); // some are ten thousand characters long
  if (cut === head && g.measureText(text).width <= width) return text;
  const [wide, rest] = [g.measureText(cut).width, width - g.measureText(`…${tail}`).width];
  return `${cut.slice(0, Math.max(1, Math.floor((cut.length * rest) / wide)))}…${tail}`;
}
