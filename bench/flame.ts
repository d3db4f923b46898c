import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

/*
 * Draws a flame graph of what `node --cpu-prof` has written: the time of each function over the
 * time of those that called it. Several profiles are drawn below one another.
 *
 * node --import tsx bench/flame.ts --out docs/flame.svg 'source=CPU.1.cpuprofile' ...
 */

/** A profile as V8 writes it. */
interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: {
      readonly functionName: string;
      readonly url: string;
      readonly lineNumber: number;
    };
    readonly children?: readonly number[];
  }[];
  readonly samples: readonly number[];
  /** Microseconds before each sample. */
  readonly timeDeltas: readonly number[];
}

/** A function as it was called from those above it. */
interface Frame {
  readonly name: string;
  readonly place: string;
  totalUs: number;
  readonly children: Map<string, Frame>;
}

const WIDTH = 1200;
const ROW = 17;
const MARGIN = 10;
const LETTER = 6.4;
/** What is narrower would be seen by nobody. */
const LEAST_WIDTH = 2;

/** Time in which there was nothing to do. */
const IDLE = new Set(['(idle)', '(root)']);

function newFrame(name: string, place: string): Frame {
  return { name, place, totalUs: 0, children: new Map() };
}

/** The calls of a profile by who called them, without the time in which nothing was done. */
function framesOf({ nodes, samples, timeDeltas }: Profile): Frame {
  const parents = new Map(
    nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id])),
  );
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const root = newFrame('all', '');
  samples.forEach((sample, at) => {
    const calls: { name: string; place: string }[] = [];
    for (let id: number | undefined = sample; id !== undefined; id = parents.get(id)) {
      const { functionName, url, lineNumber } = byId.get(id)?.callFrame ?? fail(`No node ${id}.`);
      if (functionName === '(root)') break;
      const file = url.replace(/^.*\/(?=[^/]*\/[^/]*$)/, '');
      calls.unshift({ name: functionName || '(anonymous)', place: `${file}:${lineNumber + 1}` });
    }
    if (IDLE.has(calls.at(-1)?.name ?? '(root)')) return;
    const us = Math.max(0, timeDeltas[at] ?? 0);
    let frame = root;
    frame.totalUs += us;
    for (const { name, place } of calls) {
      const key = `${name} ${place}`;
      const child = frame.children.get(key) ?? newFrame(name, place);
      frame.children.set(key, child);
      child.totalUs += us;
      frame = child;
    }
  });
  return root;
}

function depthOf({ children }: Frame): number {
  return 1 + Math.max(0, ...[...children.values()].map(depthOf));
}

function text(value: string): string {
  return value.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}

/** Ours stands out from Node's own JavaScript and from what is compiled. */
function colourOf({ name, place }: Frame): string {
  if (name.startsWith('(')) return '#c9c9c9';
  if (place.startsWith(':')) return '#9dc3e6';
  return place.includes('node:') ? '#f6c58f' : '#8fd19e';
}

/** The rectangles of one profile, with its root at the bottom. */
function draw(root: Frame, title: string, top: number): { svg: string; height: number } {
  const height = (depthOf(root) + 2) * ROW;
  const scale = (WIDTH - 2 * MARGIN) / root.totalUs;
  const lines: string[] = [
    `<text x="${MARGIN}" y="${top + ROW}" class="title">${text(title)}</text>`,
  ];
  const add = (frame: Frame, x: number, level: number) => {
    const width = frame.totalUs * scale;
    if (width < LEAST_WIDTH) return;
    const y = top + height - (level + 1) * ROW;
    const share = ((frame.totalUs / root.totalUs) * 100).toFixed(1);
    const label = `${frame.name} ${frame.place === '' ? '' : `(${frame.place}) `}${share} %`;
    const letters = Math.floor(width / LETTER);
    const shown = letters < 4 ? '' : label.length <= letters ? label : label.slice(0, letters);
    lines.push(
      `<g><title>${text(label)}</title><rect x="${x.toFixed(1)}" y="${y}" ` +
        `width="${width.toFixed(1)}" height="${ROW - 1}" fill="${colourOf(frame)}"/>` +
        `<text x="${(x + 2).toFixed(1)}" y="${y + ROW - 5}">${text(shown)}</text></g>`,
    );
    let next = x;
    const children = [...frame.children.values()].sort((one, other) => other.totalUs - one.totalUs);
    for (const child of children) {
      add(child, next, level + 1);
      next += child.totalUs * scale;
    }
  };
  add(root, MARGIN, 0);
  return { svg: lines.join('\n'), height: height + ROW };
}

function fail(message: string): never {
  throw new Error(message);
}

const { values, positionals } = parseArgs({
  options: { out: { type: 'string' } },
  allowPositionals: true,
});
const out = values.out ?? fail('Say --out FILE.svg.');
let top = MARGIN;
const parts: string[] = [];
for (const positional of positionals) {
  const at = positional.indexOf('=');
  const profile = JSON.parse(readFileSync(positional.slice(at + 1), 'utf8')) as Profile;
  const root = framesOf(profile);
  const title = `${positional.slice(0, at)}: ${(root.totalUs / 1000).toFixed(0)} ms at work`;
  const { svg, height } = draw(root, title, top);
  parts.push(svg);
  top += height;
}
writeFileSync(
  out,
  `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${top}" ` +
    `viewBox="0 0 ${WIDTH} ${top}">\n<title>Where an agent spends its time</title>\n<style>text{font:11px monospace}.title{font-size:14px}</style>\n` +
    `<rect width="100%" height="100%" fill="#fff"/>\n${parts.join('\n')}\n</svg>\n`,
);
