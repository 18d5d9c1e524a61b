// @ts-check
/** What is accepted above a confidence, and how right it is. It knows nothing of single rows. */
import {colour, computed, effect, h, prepare, sizeOf} from './elements.js';
import {failure, getJson, resource} from './api.js';
import {dark, go, pane, queryWithout, run, version, view} from './state.js';
import {COMPARED, images, percent, SCORES} from './query.js';

const OUTCOMES = ['right', ...SCORES, ...COMPARED, 'state'];
const IGNORED = ['true', 'pred', 'missed', 'wrongly_predicted', ...OUTCOMES];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 8, 8, 20];

/** Below `known_from` one of several labels is not predicted, and how many would be is not known.
 * @param {{all: number[], right: number[], of: number, known_from: number}} bins */
function fromAbove({all, right, of, known_from: from}) {
  const n = all.length;
  const [accepted, correct] = [new Float64Array(n + 1), new Float64Array(n + 1)];
  for (let i = n - 1; i >= 0; i--) {
    accepted[i] = accepted[i + 1] + all[i];
    correct[i] = correct[i + 1] + right[i];
  }
  accepted.fill(Number.NaN, 0, from);
  return {accepted, correct, of, n, from: from / n};
}

export function threshold() {
  const shown = () => pane.value === 'threshold';
  const curve = resource(
    () => {
      const asked = shown() ? queryWithout(...IGNORED) : '';
      if (!asked) return '';
      const more = new URLSearchParams({v: version.value, ...(view.value.class ? {class: view.value.class} : {})});
      return `curve?${asked}&${more}`;
    },
    async (address, abort) => fromAbove(await getJson(address, abort)),
  );
  const at = computed(() => {
    const asked = Number.parseFloat(view.value.at ?? '');
    return Math.min(1, Math.max(0, Number.isFinite(asked) ? asked : Math.max(0.5, curve.value.data?.from ?? 0)));
  });
  const canvas = h('canvas', {
    class: 'curve',
    'aria-hidden': 'true',
    onpointerdown: e => {
      canvas.setPointerCapture(e.pointerId);
      point(e);
    },
    onpointermove: e => {
      if (e.buttons) point(e);
    },
  });
  /** @param {PointerEvent} e */
  function point(e) {
    const share = (e.offsetX - LEFT) / (canvas.clientWidth - LEFT - RIGHT);
    go({at: Math.max(0, Math.min(1, share)).toFixed(3)}, true);
  }
  const size = sizeOf(canvas);
  effect(() => {
    void dark.value;
    if (curve.value.data && size.value.width)
      draw(canvas, curve.value.data, at.value, size.value, Boolean(view.value.class));
  });
  const ofClass = () => Boolean(view.value.class);
  const several = () => Boolean(run.value?.multi_label);
  const ofLabel = () => ofClass() && several();
  const now = computed(() => {
    const data = curve.value.data;
    if (!data) return null;
    const bin = Math.round(at.value * data.n);
    const [accepted, correct] = [data.accepted[bin], data.correct[bin]];
    return {
      accepted,
      quality: accepted ? correct / accepted : null,
      share: data.of ? (ofClass() ? correct : accepted) / data.of : null,
    };
  });
  const pred = () => (view.peek().class ? {pred: view.peek().class} : {pred: ''});
  return h(
    'section',
    {class: 'threshold scroll', hidden: () => !shown()},
    h(
      'div',
      {class: 'options'},
      h(
        'label',
        null,
        'of ',
        h('select', {'aria-label': 'Class', onchange: e => go({class: e.target.value}, true)}, () => [
          h('option', {value: ''}, several() ? 'all labels' : 'all classes'),
          (run.value?.classes ?? []).map((name, i) =>
            h('option', {value: i, selected: view.value.class === String(i)}, name.slice(0, 100)),
          ),
        ]),
      ),
      h(
        'label',
        null,
        'accept from ',
        h('input', {
          type: 'number',
          min: '0',
          max: '1',
          step: '0.005',
          value: () => at.value,
          onchange: e => go({at: e.target.value}, true),
        }),
      ),
    ),
    failure(curve),
    canvas,
    h('input', {
      type: 'range',
      min: 0,
      max: 1,
      step: 0.001,
      class: 'wide',
      id: 'threshold',
      'aria-label': 'Least confidence that is accepted',
      value: () => at.value,
      oninput: e => go({at: e.target.value}, true),
    }),
    h(
      'table',
      {class: 'facts', 'aria-label': 'at the threshold'},
      h(
        'tr',
        null,
        h('th', {scope: 'row', class: 'right'}, () => (ofClass() ? 'precision' : 'accuracy of accepted')),
        h('td', {id: 'quality'}, () => percent(now.value?.quality)),
      ),
      h(
        'tr',
        null,
        h('th', {scope: 'row', class: 'faint'}, () => (ofClass() ? 'recall' : 'coverage')),
        h('td', {id: 'share'}, () => percent(now.value?.share)),
      ),
      h(
        'tr',
        null,
        h('th', {scope: 'row'}, 'accepted'),
        h('td', null, () =>
          now.value && Number.isFinite(now.value.accepted)
            ? images(now.value.accepted) + (ofClass() ? ` predicted as the ${several() ? 'label' : 'class'}` : '')
            : '–',
        ),
      ),
    ),
    h(
      'div',
      {class: 'inline'},
      h(
        'button',
        {
          id: 'wrong-above',
          onclick: () =>
            ofLabel()
              ? go({missed: '', wrongly_predicted: view.peek().class})
              : go({confidence: `${at.peek()}..`, right: '0', true: '', ...pred()}),
        },
        () => (ofLabel() ? 'Show where it is wrongly predicted' : 'Show what is wrong above'),
      ),
      h(
        'button',
        {
          id: 'right-below',
          onclick: () =>
            ofLabel()
              ? go({missed: view.peek().class, wrongly_predicted: ''})
              : go({confidence: `..${at.peek()}`, right: '1', true: '', ...pred()}),
        },
        () => (ofLabel() ? 'Show where it is missed' : 'Show what is right below'),
      ),
    ),
    h(
      'p',
      {class: 'faint'},
      'Filters by class, verdict and score do not count here: a curve of wrong images alone says nothing.',
      () =>
        ofLabel()
          ? ' By the probability of the label; below that from which it is predicted only the recall is known.'
          : '',
    ),
  );
}

/** @type {DrawCurve} */
const draw = (canvas, data, at, {width, height}, ofClass) => {
  const g = prepare(canvas, width, height);
  const x = (/** @type {number} */ v) => LEFT + v * (width - LEFT - RIGHT);
  const y = (/** @type {number} */ v) => height - BOTTOM - v * (height - TOP - BOTTOM);
  g.strokeStyle = colour('--line');
  g.fillStyle = colour('--faint');
  for (const v of [0, 0.25, 0.5, 0.75, 1]) {
    g.beginPath();
    g.moveTo(x(0), y(v));
    g.lineTo(x(1), y(v));
    g.stroke();
    g.textAlign = 'right';
    g.fillText(`${100 * v}%`, LEFT - 4, y(v));
    g.textAlign = v ? (v === 1 ? 'right' : 'center') : 'left';
    g.fillText(String(v), x(v), height - 8);
  }
  /** @param {(i: number) => number} value @param {string} name @param {number[]} dash */
  const line = (value, name, dash) => {
    g.strokeStyle = colour(name);
    g.lineWidth = 2;
    g.setLineDash(dash);
    g.beginPath();
    for (let i = 0; i < data.n; i++) if (Number.isFinite(value(i))) g.lineTo(x(i / data.n), y(value(i)));
    g.stroke();
    g.setLineDash([]);
  };
  line(i => (ofClass ? data.correct[i] : data.accepted[i]) / data.of, '--unknown', [5, 3]);
  line(i => data.correct[i] / data.accepted[i], '--right', []);
  g.strokeStyle = colour('--ink');
  g.lineWidth = 1;
  g.beginPath();
  g.moveTo(x(at), y(0));
  g.lineTo(x(at), y(1));
  g.stroke();
};
