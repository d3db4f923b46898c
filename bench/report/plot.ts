import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MOVER_TITLES, type MoverName } from '../movers/mover.js';
import type { Spread } from '../statistics.js';
import { compareRounds } from './compare.js';
import type { Results, ScenarioResult } from './results.js';

const FILE = fileURLToPath(new URL('../../docs/bench.svg', import.meta.url));

/** Those that are drawn, with colours that people tell apart in every kind of sight. */
const COLOURS: readonly (readonly [MoverName, string])[] = [
  ['direct', '#0072b2'],
  ['stream', '#56b4e9'],
  ['libvirt', '#d55e00'],
  ['libvirt-tls', '#e69f00'],
  ['libvirt-sync', '#cc79a7'],
];
const FLOOR = '#555555';

const WIDTH = 1060;
const LABELS = 310;
const PANEL = { width: 340, gap: 40 };
const TOP = 90;
const LINE = 11;
const ROW_SPACE = 14;

/** One half of the picture: a scale and a value with its reach for each mover. */
interface Panel {
  readonly title: string;
  readonly left: number;
  readonly min: number;
  readonly max: number;
  readonly ticks: readonly number[];
  readonly of: (scenario: ScenarioResult, mover: MoverName) => Spread | undefined;
}

/** Draws total time and guest gap of every scenario. */
export function writePlot(results: Results): void {
  const scenarios = results.scenarios;
  const rowHeight = COLOURS.length * LINE + ROW_SPACE;
  const height = TOP + scenarios.length * rowHeight + 20;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}"`,
    ' font-family="sans-serif" font-size="12">',
    '<title>Total time and silence of the guest, by scenario</title>',
    `<rect width="${WIDTH}" height="${height}" fill="white"/>`,
    ...legend(),
    ...panels(scenarios).flatMap((panel) => [
      ...scale(panel, height),
      ...scenarios.flatMap((scenario, index) => row(panel, scenario, TOP + index * rowHeight)),
    ]),
    ...scenarios.map(({ title }, index) => {
      const y = TOP + index * rowHeight + rowHeight / 2;
      const text = xmlText(title);
      return `<text x="${LABELS - 12}" y="${y}" text-anchor="end" fill="black">${text}</text>`;
    }),
    '</svg>',
  ];
  writeFileSync(FILE, `${parts.join('\n')}\n`);
}

function panels(scenarios: readonly ScenarioResult[]): Panel[] {
  const ratio = (scenario: ScenarioResult, mover: MoverName) =>
    compareRounds(scenario, { metric: 'totalS', mover, against: 'floor', as: 'ratio' });
  const gap = ({ movers }: ScenarioResult, mover: MoverName) => movers[mover]?.spreads.gapMs;
  const most = (of: Panel['of']) =>
    Math.max(
      ...scenarios.flatMap((each) => COLOURS.flatMap(([name]) => of(each, name)?.median ?? [])),
    );
  const longest = Math.max(200, most(gap)) * 1.1;
  const slowest = Math.max(2, most(ratio)) * 1.1;
  return [
    {
      title: 'total time / by hand (1 is the floor)',
      ...{ left: LABELS, min: 0.8, max: slowest },
      ticks: stepsOf(slowest, slowest > 4 ? 1 : 0.5).filter((tick) => tick >= 1),
      of: ratio,
    },
    {
      title: 'guest silent, ms',
      ...{ left: LABELS + PANEL.width + PANEL.gap, min: 0, max: longest },
      ticks: stepsOf(longest, longest > 1000 ? 500 : longest > 400 ? 100 : 50),
      of: gap,
    },
  ];
}

function stepsOf(most: number, step: number): number[] {
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
}

function legend(): string[] {
  return COLOURS.map(([name, colour], index) => {
    const x = LABELS + index * 140;
    return (
      `<circle cx="${x}" cy="24" r="5" fill="${colour}"/>` +
      `<text x="${x + 10}" y="28" font-size="11">${xmlText(MOVER_TITLES[name].split(',')[0] ?? '')}</text>`
    );
  });
}

function scale(panel: Panel, height: number): string[] {
  const ticks = panel.ticks.map((tick) => {
    const x = place(panel, tick);
    const colour = panel.min > 0 && tick === 1 ? FLOOR : '#dddddd';
    return (
      `<line x1="${x}" y1="${TOP - 8}" x2="${x}" y2="${height - 16}" stroke="${colour}"/>` +
      `<text x="${x}" y="${TOP - 14}" text-anchor="middle" fill="#444444">${tick}</text>`
    );
  });
  return [
    `<text x="${panel.left}" y="${TOP - 36}" font-weight="bold">${panel.title}</text>`,
    ...ticks,
  ];
}

/** The median as a dot and least to most as a line; what is beyond the scale ends at its edge. */
function row(panel: Panel, scenario: ScenarioResult, top: number): string[] {
  return COLOURS.flatMap(([name, colour], index) => {
    const spread = panel.of(scenario, name);
    if (!spread) return [];
    const y = top + ROW_SPACE / 2 + index * LINE + LINE / 2;
    const [from, at, to] = [spread.min, spread.median, spread.max].map((x) => place(panel, x));
    return [
      `<line x1="${from}" y1="${y}" x2="${to}" y2="${y}" stroke="${colour}" stroke-width="2"/>`,
      `<circle cx="${at}" cy="${y}" r="4" fill="${colour}"/>`,
    ];
  });
}

function place({ left, min, max }: Panel, value: number): string {
  const share = (Math.min(Math.max(value, min), max) - min) / (max - min);
  return (left + share * PANEL.width).toFixed(1);
}

function xmlText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
