/** Types that several files speak of. Only the type checker reads this file: browsers never get it. */

/** A value that effects follow; `peek` reads without following. */
interface Signal<T> {
  value: T;
  peek(): T;
}
interface Computed<T> {
  readonly value: T;
  peek(): T;
}
/** What reads sources: an effect, or a computed value, which is a source itself. */
interface Reader {
  version: number;
  readers: Set<any>;
  sources: Map<any, number>;
  stale: boolean;
  effect: boolean;
  owned: (() => void)[];
  run(): void;
}
type Properties = Record<
  string,
  ((event: any) => any) | string | number | boolean | null | undefined | Record<string, string>
>;
type Child = Node | string | number | boolean | null | undefined | (() => any) | any[];
type Size = {width: number; height: number};

/** Keys of the address and their values; a missing key is empty. */
type View = Record<string, string>;
type Column = {name: string; kind: string; values?: string[]; lo?: number; hi?: number};
type Versioned = {name: string; version: string};

/** A level of groups of classes, and the group of each class. */
type Level = {name: string; groups: string[]; group_of: number[]};

/** A run as /runs tells of it. */
interface Run extends Versioned {
  kind: string;
  steps: number[];
  labelled: boolean;
  multi_label: boolean;
  classes: string[];
  columns: Column[];
  levels: Level[];
  states?: Record<string, {failed: number; unlabelled: number}>;
  map?: string;
  missing: string[];
  error?: string;
  old?: string;
  new?: string;
  has: Record<string, boolean>;
}

/** The class of a row, -1 for none; or its labels, null where nothing is known. */
type Classes = number | number[] | null;

/** A row as /rows tells of it. `missed` and `wrongly_predicted` are there where rows have several labels. */
interface Row {
  id: number;
  key: string;
  true: Classes;
  pred: Classes;
  missed?: number[] | null;
  wrongly_predicted?: number[] | null;
  verdict: string;
  conf: number | null;
  loss: number | null;
  margin: number | null;
  tags: string[];
  relabel?: string;
  suggested?: number;
  given?: boolean;
  similarity?: number;
  more?: Record<string, any>;
  old?: {pred: Classes; conf: number | null; true: Classes} | null;
}

/** What an address has, followed: when the address changes, the request before it is given up; what was there stays,
 * and is stale, until the answer comes. */
type Resource<T> = {data: T | null; address: string; error: string; stale: boolean};
type Spread = {lo: number; hi: number; right: number[]; wrong: number[]; unlabelled: number[]; rest: number[]};

/** Counts of pairs that occur. */
type Cells = {rows: Int32Array; columns: Int32Array; counts: Int32Array};
/** What a matrix is of: the columns are what was predicted; the rows the true class, or the prediction before. */
type Axes = {rowKey: string; columnKey: string; rowWord: string; columnWord: string; axes: string; name: string};
/** What part of a matrix is in sight: first row, first column, classes across. */
type Part = {x: number; y: number; k: number};
/** A cell by its places on the axes; -1 is the name of a row or column. */
type Spot = {x: number; y: number};

/** A cell in pixels of the canvas; `same` is 1 on the diagonal. */
type DrawnCell = {x: number; y: number; value: number; same: 0 | 1};

type Points = {
  n: number;
  x: Int16Array;
  y: Int16Array;
  verdict: Int16Array; // right, wrong, unlabelled, failed
  true: Int16Array;
  pred: Int16Array;
};
/** Middle of the view and its magnification, in -1..1. */
type Camera = {x: number; y: number; scale: number};
type Colouring = (index: number) => [number, number, number];
/** Address: empty while it is awaited, `none` if there is none. */
type Picture = {address: string; use: Set<(address: string) => void>};
/** Items across, height of a line of them, where one of a line begins, where the first line begins. */
type Layout = {across: number; height: number; left(at: number): number; top: number; width: string};

/** The cells, and around them names and what is chosen, as numbers of classes. */
type DrawMatrix = (
  canvas: HTMLCanvasElement,
  layer: any,
  cursor: Spot | null,
  rows: number[],
  columns: number[],
) => void;
/** `bolds` are places on the axes. */
type DrawNames = (g: CanvasRenderingContext2D, layer: any, bolds: {row: number[]; column: number[]}) => void;
type DrawLasso = (
  canvas: HTMLCanvasElement,
  size: Size,
  path: number[] | null,
  toScreen: (x: number, y: number) => [number, number],
  dark: boolean,
) => void;
type DrawSpread = (
  canvas: HTMLCanvasElement,
  data: Spread,
  range: [number | null, number | null],
  size: Size,
  dark: boolean,
) => void;
/** Counts from each of `n` confidences upwards. */
type Curve = {accepted: Float64Array; correct: Float64Array; of: number; n: number; from: number};
type DrawCurve = (canvas: HTMLCanvasElement, data: Curve, at: number, size: Size, ofClass: boolean) => void;
/** The row near a place, among those selected; -1 if none is. */
type Nearest = (
  data: Points | null,
  mask: Uint8Array | null,
  x: number,
  y: number,
  scale: number,
  width: number,
) => number;
type Painted = {n: number; places: Int16Array; colours: Uint8Array};
type Paint = (data: Points, mask: Uint8Array, colourOf: Colouring, dark: boolean) => Painted;
type MakeColouring = (data: Points, by: string, values: ArrayBuffer | null) => Colouring;
/** `use` is called now or later with an address, `none` if there is no picture; what is returned calls it off. */
type AskPicture = (
  run: Versioned,
  step: string,
  id: number,
  side: number,
  use: (address: string) => void,
) => () => void;
type ShowPicture = (image: HTMLImageElement, run: Versioned, step: string, row: Row, side: number) => () => void;
interface Grid {
  across(): number;
  lines(): number;
  scrollTo(index: number): void;
  top(): void;
}
/** `box` scrolls, `inner` holds the items; `count` and `layoutOf` are followed. */
type Virtual = (
  box: HTMLElement,
  inner: HTMLElement,
  count: () => number,
  layoutOf: (width: number) => Layout,
  build: (index: number) => HTMLElement,
  sees: (first: number, end: number) => void,
) => Grid;
/** `parts` are shares of the bar's length by their class. */
type Bar = (
  id: string,
  on: () => boolean,
  title: string,
  act: (event: any) => void,
  name: Child,
  parts: Record<string, number>,
  number: string,
) => HTMLElement;
