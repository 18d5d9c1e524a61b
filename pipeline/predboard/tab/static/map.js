// @ts-check
/** All rows as points, alike ones near each other; a lasso filters. It knows nothing of how the places were found. */
import {colour, computed, effect, h, prepare, rgb, signal, sizeOf} from './elements.js';
import {getArray, getJson, picture, resource} from './api.js';
import {
  className,
  columnOf,
  dark,
  filterable,
  go,
  message,
  pane,
  queryWithout,
  run,
  step,
  version,
  view,
} from './state.js';
import {short} from './query.js';

const UNIT = 32767;
const VERTEX = `#version 300 es
in vec2 place; in vec4 colour; uniform vec3 camera; uniform float size; out vec4 shade;
void main() { gl_Position = vec4((place - camera.xy) * camera.z, 0., 1.); gl_PointSize = size; shade = colour; }`;
const FRAGMENT = `#version 300 es
precision mediump float; in vec4 shade; out vec4 result;
void main() {
  vec2 d = gl_PointCoord - .5;
  if (dot(d, d) > .25) discard;
  result = vec4(shade.rgb * shade.a, shade.a);
}`;

/** @param {ArrayBuffer} body @returns {Points} */
function decode(body) {
  const n = body.byteLength / 10;
  const plane = (/** @type {number} */ at) => new Int16Array(body, 2 * n * at, n);
  return {n, x: plane(0), y: plane(1), verdict: plane(2), true: plane(3), pred: plane(4)};
}

export function map() {
  const shown = () => pane.value === 'map';
  const of = computed(() =>
    shown() && run.value?.has.map
      ? new URLSearchParams({run: run.value.name, step: step.value, v: version.value}).toString()
      : '',
  );
  const points = resource(
    () => of.value && `points?${of.value}`,
    async (address, abort) => decode(await getArray(address, abort)),
  );
  const mask = resource(
    () => (of.value ? `mask?${queryWithout('lasso')}&v=${encodeURIComponent(version.value)}` : ''),
    async (address, abort) => new Uint8Array(await getArray(address, abort)),
  );
  const by = () => view.value.colour ?? '';
  const values = resource(
    () => (of.value && by() && columnOf(by()) ? `values?${of.value}&${new URLSearchParams({column: by()})}` : ''),
    getArray,
  );
  const camera = signal(/** @type {Camera} */ ({x: 0, y: 0, scale: 1}));
  effect(() => {
    void of.value;
    camera.value = {x: 0, y: 0, scale: 1};
  });
  const drawn = signal(/** @type {number[] | null} */ (null));
  const canvas = h('canvas', {id: 'map', 'aria-hidden': 'true'});
  const over = h('canvas', {
    class: 'over',
    tabindex: '0',
    role: 'application',
    'aria-label': 'Map of the images: + and − zoom, arrow keys move',
    onwheel: e => {
      e.preventDefault();
      const [x, y] = place(e);
      zoom(e.deltaY > 0 ? 0.8 : 1.25, x, y);
    },
    onpointerdown: press,
    onpointermove: move,
    onpointerup: release,
    onpointerleave: () => {
      hovered.value = -1;
    },
    onkeydown: keys,
  });
  const box = h('div', {class: 'map-box', 'data-stale': () => points.value.stale || mask.value.stale}, canvas, over);
  const size = sizeOf(box);

  const wanted = computed(() => Boolean(of.value && size.value.width));
  const painter = computed(() => (wanted.value ? makePainter(canvas) : null));
  const painted = computed(() => {
    const data = points.value.data;
    const selected = mask.value.data;
    if (!data || !selected || !size.value.width) return null;
    return paint(data, selected, colouring(data, by(), values.value.data), dark.value);
  });
  effect(() => {
    if (painted.value) painter.value?.load(painted.value);
  });
  effect(() => {
    const {width, height} = size.value;
    if (!painted.value || !width) return;
    const ratio = devicePixelRatio || 1;
    const side =
      Math.max(1.6, Math.min(7, 260 / Math.sqrt(painted.value.n))) * Math.min(3, Math.sqrt(camera.value.scale));
    painter.value?.draw(camera.value, width, height, side * ratio, ratio);
  });
  effect(() => drawLasso(over, size.value, drawn.value ?? lassoOf(view.value.lasso), toScreen, dark.value));

  /** @param {number} x @param {number} y in units of the points @returns {[number, number]} */
  function toScreen(x, y) {
    const {width, height} = size.value;
    const now = camera.value;
    return [
      (((x / UNIT - now.x) * now.scale * 0.96 + 1) / 2) * width,
      ((1 - (y / UNIT - now.y) * now.scale * 0.96) / 2) * height,
    ];
  }
  /** @param {MouseEvent} e @returns {[number, number]} in -1..1 */
  function place(e) {
    const {width, height} = size.peek();
    const now = camera.peek();
    return [
      ((e.offsetX / width) * 2 - 1) / (now.scale * 0.96) + now.x,
      (1 - (e.offsetY / height) * 2) / (now.scale * 0.96) + now.y,
    ];
  }
  /** @param {number} factor @param {number} x @param {number} y */
  function zoom(factor, x, y) {
    const now = camera.peek();
    const scale = Math.max(1, Math.min(400, now.scale * factor));
    camera.value =
      scale === 1
        ? {x: 0, y: 0, scale}
        : {x: x - ((x - now.x) * now.scale) / scale, y: y - ((y - now.y) * now.scale) / scale, scale};
  }
  /** @type {{x: number, y: number} | null} */
  let pan = null;
  /** @param {PointerEvent} e */
  function press(e) {
    over.setPointerCapture(e.pointerId);
    const [x, y] = place(e);
    if (e.shiftKey || e.button) pan = {x, y};
    else drawn.value = [x * UNIT, y * UNIT];
  }
  /** @param {PointerEvent} e */
  function move(e) {
    const [x, y] = place(e);
    const path = drawn.peek();
    if (pan) camera.value = {...camera.peek(), x: camera.peek().x + pan.x - x, y: camera.peek().y + pan.y - y};
    else if (path) {
      const step_ =
        Math.hypot(x * UNIT - path[path.length - 2], y * UNIT - path[path.length - 1]) * camera.peek().scale;
      if (step_ > UNIT / 60 && path.length < 900) drawn.value = [...path, x * UNIT, y * UNIT];
    } else hovered.value = nearest(points.peek().data, mask.peek().data, x, y, camera.peek().scale, size.peek().width);
  }
  function release() {
    const path = drawn.peek();
    drawn.value = null;
    if (pan) pan = null;
    else if (path && path.length >= 8)
      go({lasso: path.map(v => Math.max(-UNIT, Math.min(UNIT, Math.round(v)))).join()});
    else if (hovered.peek() >= 0) open(hovered.peek());
    else if (view.peek().lasso) go({lasso: ''});
  }
  /** @param {number} id */
  async function open(id) {
    try {
      go({image: (await getJson(`row?${of.peek()}&id=${id}`)).key});
    } catch (error) {
      message.value = {text: /** @type {Error} */ (error).message};
    }
  }
  /** @param {KeyboardEvent} e */
  function keys(e) {
    const now = camera.peek();
    const by_ = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[e.key];
    if (e.key === '+' || e.key === '-') zoom(e.key === '+' ? 1.4 : 0.7, now.x, now.y);
    else if (e.key === '0') camera.value = {x: 0, y: 0, scale: 1};
    else if (by_) camera.value = {...now, x: now.x + (by_[0] * 0.2) / now.scale, y: now.y + (by_[1] * 0.2) / now.scale};
    else return;
    e.preventDefault();
    e.stopPropagation();
  }

  const hovered = signal(-1);
  const image = h('img', {alt: '', width: 96, height: 96});
  effect(() => {
    const id = hovered.value;
    image.removeAttribute('src');
    if (id < 0 || !run.value) return;
    return picture(run.value, step.value, id, 128, address => {
      image.hidden = address === 'none';
      if (!image.hidden) image.src = address;
    });
  });
  const tip = h(
    'div',
    {
      class: 'map-tip',
      hidden: () => hovered.value < 0,
      style: () => {
        const data = points.value.data;
        if (!data || hovered.value < 0) return {};
        const [x, y] = toScreen(data.x[hovered.value], data.y[hovered.value]);
        return {
          left: `${Math.min(size.value.width - 130, x + 12)}px`,
          top: `${Math.min(size.value.height - 130, y + 12)}px`,
        };
      },
    },
    image,
    () => {
      const [data, id] = [points.value.data, hovered.value];
      if (!data || id < 0 || run.value?.multi_label) return null;
      return h(
        'div',
        {class: 'clip'},
        h('bdi', null, className(data.pred[id])),
        data.true[id] >= 0 && data.true[id] !== data.pred[id]
          ? [' (true ', h('bdi', null, className(data.true[id])), ')']
          : null,
      );
    },
  );
  box.append(tip);
  return h(
    'section',
    {class: 'map', hidden: () => !shown()},
    h(
      'div',
      {class: 'options'},
      h(
        'label',
        null,
        'colour by ',
        h('select', {'aria-label': 'Colour by', onchange: e => go({colour: e.target.value}, true)}, () =>
          [
            ['', 'verdict'],
            ...(run.value?.multi_label
              ? []
              : [
                  ['true', 'true class'],
                  ['pred', 'predicted class'],
                ]),
            ...filterable.value.map(column => [column.name, column.name]),
          ].map(([value, words]) => h('option', {value, selected: value === by()}, words.slice(0, 60))),
        ),
      ),
      h('span', {class: 'faint'}, 'drag: select; Shift-drag: move; wheel: zoom'),
    ),
    () =>
      points.value.error
        ? h('p', {class: 'notice'}, points.value.error)
        : painter.value || !wanted.value
          ? null
          : h('p', {class: 'notice'}, 'The map needs WebGL 2, which this browser lacks.'),
    box,
    h('p', {class: 'readout'}, () => legend(by(), values.value.data)),
  );
}

/** @param {string | undefined} text @returns {number[] | null} */
const lassoOf = text => (text ? text.split(',').map(Number) : null);

/** @param {string} by @param {ArrayBuffer | null} values */
function legend(by, values) {
  if (!by) return run.value?.map ?? '';
  const column = columnOf(by);
  if (column?.kind !== 'number' || !values) return '';
  return `from ${short(column.lo)} (violet) to ${short(column.hi)} (yellow)`;
}

/** @type {Nearest} */
const nearest = (data, mask, x, y, scale, width) => {
  if (!data) return -1;
  const [px, py] = [x * UNIT, y * UNIT];
  let [best, at] = [(((16 / width) * UNIT) / scale) ** 2, -1];
  for (let i = 0; i < data.n; i++) {
    const [dx, dy] = [data.x[i] - px, data.y[i] - py];
    const far = dx * dx + dy * dy;
    if (far < best && (!mask || (mask[i >> 3] >> (i & 7)) & 1)) [best, at] = [far, i];
  }
  return at;
};

/** Hues far from each other: each is a golden section of the circle further. @type {Colouring} */
const hue = index =>
  /** @type {any} */ ([0, 2.1, 4.2].map(third => Math.round(140 + 90 * Math.cos(index * 3.883 + third))));

/** @type {Colouring} */
const light = share => [Math.round(70 + 180 * share), Math.round(30 + 190 * share), Math.round(160 - 110 * share)];

/** @type {MakeColouring} */
const colouring = (data, by, values) => {
  if (by === 'true' || by === 'pred') {
    const plane = data[by];
    const none = rgb('--unknown');
    return i => (plane[i] < 0 ? none : hue(plane[i]));
  }
  const column = columnOf(by);
  if (column && values?.byteLength === (column.kind === 'category' ? 2 : 4) * data.n) {
    const none = rgb('--unknown');
    if (column.kind === 'category') {
      const codes = new Int16Array(values);
      return i => (codes[i] < 0 ? none : hue(codes[i]));
    }
    const numbers = new Float32Array(values);
    const [lo, hi] = [column.lo ?? 0, column.hi ?? 1];
    return i => (Number.isNaN(numbers[i]) ? none : light(Math.max(0, Math.min(1, (numbers[i] - lo) / (hi - lo || 1)))));
  }
  const colours = [rgb('--right'), rgb('--wrong'), rgb('--unknown'), rgb('--unknown')];
  return i => colours[data.verdict[i]];
};

/** @type {Paint} */
const paint = (data, mask, colourOf, _theme) => {
  const {n} = data;
  const level = new Uint8Array(n);
  const begins = [0, 0, 0, 0, 0];
  for (let i = 0; i < n; i++) {
    const selected = (mask[i >> 3] >> (i & 7)) & 1;
    level[i] = selected ? (data.verdict[i] === 1 ? 2 : 1) : 0;
    if (data.x[i] < -UNIT) level[i] = 3; // it has no place, and comes after all that are drawn
    begins[level[i] + 1]++;
  }
  begins[2] += begins[1];
  begins[3] += begins[2];
  const [places, colours] = [new Int16Array(2 * n), new Uint8Array(4 * n)];
  const rest = rgb('--rest');
  const fade = Math.max(0.1, Math.min(1, Math.sqrt(20_000 / n))); // where many lie on each other, density shows
  for (let i = 0; i < n; i++) {
    const at = begins[level[i]]++;
    places[2 * at] = data.x[i];
    places[2 * at + 1] = data.y[i];
    colours.set(level[i] % 3 ? colourOf(i) : rest, 4 * at);
    colours[4 * at + 3] = Math.round(fade * (level[i] === 2 ? 235 : level[i] ? 150 : 180));
  }
  return {n: n - begins[4], places, colours};
};

/** @param {HTMLCanvasElement} canvas */
function makePainter(canvas) {
  const gl = canvas.getContext('webgl2', {antialias: false});
  if (!gl) return null;
  const program = /** @type {WebGLProgram} */ (gl.createProgram());
  for (const [kind, source] of /** @type {[number, string][]} */ ([
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ])) {
    const shader = /** @type {WebGLShader} */ (gl.createShader(kind));
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  const buffers = {place: gl.createBuffer(), colour: gl.createBuffer()};
  let n = 0;
  return {
    /** @param {{n: number, places: Int16Array, colours: Uint8Array}} painted */
    load(painted) {
      ({n} = painted);
      for (const [name, data, size, type] of /** @type {['place' | 'colour', BufferSource, number, number][]} */ ([
        ['place', painted.places, 2, gl.SHORT],
        ['colour', painted.colours, 4, gl.UNSIGNED_BYTE],
      ])) {
        const at = gl.getAttribLocation(program, name);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
        gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
        gl.enableVertexAttribArray(at);
        gl.vertexAttribPointer(at, size, type, true, 0, 0);
      }
    },
    /** @param {Camera} camera @param {number} width @param {number} height @param {number} side of a point
     * @param {number} ratio */
    draw(camera, width, height, side, ratio) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.useProgram(program);
      gl.uniform3f(gl.getUniformLocation(program, 'camera'), camera.x, camera.y, camera.scale * 0.96);
      gl.uniform1f(gl.getUniformLocation(program, 'size'), side);
      gl.drawArrays(gl.POINTS, 0, n);
      canvas.dataset.drawn = String(n);
    },
  };
}

/** @type {DrawLasso} */
const drawLasso = (canvas, {width, height}, path, toScreen, _theme) => {
  const g = prepare(canvas, width, height);
  if (!path) return;
  g.strokeStyle = g.fillStyle = colour('--ink');
  g.beginPath();
  for (let i = 0; i + 1 < path.length; i += 2) g.lineTo(...toScreen(path[i], path[i + 1]));
  g.closePath();
  g.setLineDash([5, 3]);
  g.lineWidth = 1.5;
  g.stroke();
  g.globalAlpha = 0.06;
  g.fill();
};
