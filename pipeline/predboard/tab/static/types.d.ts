/** Types that several files speak of. Only the type checker reads this file: browsers never get it. */

/** A value that effects follow; `peek` reads without following. */
interface Signal<T> { value: T; peek(): T }
interface Computed<T> { readonly value: T; peek(): T }
/** What reads sources: an effect, or a computed value, which is a source itself. */
interface Reader {
  version: number; readers: Set<any>; sources: Map<any, number>; stale: boolean; effect: boolean; owned: (() => void)[];
  run(): void;
}
type Properties = Record<string, ((event: any) => any) | string | number | boolean | null | undefined | Record<string, string>>;
type Child = Node | string | number | boolean | null | undefined | (() => any) | any[];
type Size = {width: number; height: number};

/** Keys of the address and their values; a missing key is empty. */
type View = Record<string, string>;
type Column = {name: string; kind: string; values?: string[]; lo?: number; hi?: number};
type Versioned = {name: string; version: string};

/** A run as /runs tells of it. */
interface Run extends Versioned {
  kind: string; steps: number[]; rows: Record<string, number>; labelled: boolean; classes: string[]; columns: Column[];
  states?: Record<string, {failed: number; unlabelled: number}>; model?: string; map?: string; missing: string[]; error?: string;
  old?: string; new?: string; has: Record<string, boolean>;
}

/** A row as /rows tells of it. */
interface Row {
  id: number; key: string; true: number; pred: number; conf: number | null; loss: number | null; margin: number | null;
  tags: string[]; relabel?: string; suggested?: number; similarity?: number; more?: Record<string, any>;
  old?: {pred: number; conf: number | null; true: number} | null;
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
type Spot = {x: number; y: number};

type Points = {n: number; x: Int16Array; y: Int16Array; true: Int16Array; pred: Int16Array};
/** Middle of the view and its magnification, in -1..1. */
type Camera = {x: number; y: number; scale: number};
type Colouring = (index: number) => [number, number, number];
/** Address: empty while it is awaited, `none` if there is none. */
type Picture = {address: string; use: Set<(address: string) => void>};
/** Items across, height of a line of them, where one of a line begins, where the first line begins. */
type Layout = {across: number; height: number; left(at: number): number; top: number; width: string};
