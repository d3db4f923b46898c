import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { MoverName } from '../movers/mover.js';
import { MOVER_TITLES } from '../movers/mover.js';
import type { Spread } from '../statistics.js';
import { compareRounds } from './compare.js';
import { judgeGoal, readGoals, showLimit, verdictOf } from './goals.js';
import { type Metric, showMetric } from './metrics.js';
import type { Results, ScenarioResult } from './results.js';

const ROOT = new URL('../../', import.meta.url);
const BEGIN = '<!-- bench: begin -->';
const END = '<!-- bench: end -->';

/** Writes what a run came to into the README and into docs/performance.md, between the marks. */
export function writeTables(results: Results, resultsFile: string): void {
  replaceBetweenMarks('README.md', readmePart(results));
  const path = fileURLToPath(new URL('docs/performance.md', ROOT));
  if (!existsSync(path)) writeFileSync(path, `# Performance\n\n${BEGIN}\n${END}\n`);
  replaceBetweenMarks('docs/performance.md', documentPart(results, basename(resultsFile)));
}

function replaceBetweenMarks(file: string, lines: readonly string[]): void {
  const path = fileURLToPath(new URL(file, ROOT));
  const text = readFileSync(path, 'utf8');
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`${file} lacks the line ${BEGIN} or ${END}.`);
  const part = `${BEGIN}\n\n${lines.join('\n')}\n\n`;
  writeFileSync(path, text.slice(0, begin) + part + text.slice(end));
}

/** The same for a terminal. */
export function describeResults(results: Results): string {
  return readmePart(results).join('\n');
}

/** The figures that matter most, one line for each scenario. */
function readmePart(results: Results): string[] {
  const columns: readonly (readonly [string, (scenario: ScenarioResult) => string])[] = [
    ['', ({ title }) => title],
    ['direct / by hand', (scenario) => ratio(scenario, 'totalS', 'direct', 'floor')],
    ['stream / by hand', (scenario) => ratio(scenario, 'totalS', 'stream', 'floor')],
    ['direct / libvirt', (scenario) => ratio(scenario, 'totalS', 'direct', 'libvirt')],
    ['gap direct', (scenario) => median(scenario, 'gapMs', 'direct')],
    ['gap stream', (scenario) => median(scenario, 'gapMs', 'stream')],
    ['gap libvirt', (scenario) => median(scenario, 'gapMs', 'libvirt')],
  ];
  return [
    'Total time of a move as a ratio, and how long the guest is silent (its heartbeat, heard from',
    'outside): medians, with least and most in brackets. "By hand" is QEMU driven at its monitors',
    'with the best options, on the same link. Below 1 is faster than the other.',
    '',
    ...table(
      columns.map(([title]) => title),
      results.scenarios.map((scenario) => columns.map(([, of]) => of(scenario))),
    ),
    '',
    `QEMU ${results.qemu} (emulated guests), libvirt ${results.libvirt}, ${results.machine}.`,
    'All figures, how they were measured and where Drover loses: [performance](docs/performance.md).',
  ];
}

function documentPart(results: Results, file: string): string[] {
  const { load_average: load } = results;
  return [
    '![Total time and guest gap, by scenario](bench.svg)',
    '',
    `\`${results.command}\` on ${results.date.slice(0, 10)}: Drover ${results.drover},`,
    `QEMU ${results.qemu} with emulated guests, libvirt ${results.libvirt}; ${results.machine}.`,
    `Load average ${load.median.toFixed(1)} (${load.min.toFixed(1)}–${load.max.toFixed(1)});`,
    `${results.turns_with_foreign_load} turns in which others took more than a quarter of a core.`,
    `${results.acked_writes} acknowledged writes were checked; ${faultCount(results)}.`,
    `Every turn is in [${file}](../bench/results/${file}).`,
    '',
    '## How it is measured',
    '',
    ...results.method.map((line) => `- ${line}`),
    '',
    '## Goals',
    '',
    ...goalTable(results),
    '',
    '## Scenarios',
    '',
    ...results.scenarios.flatMap(scenarioPart),
  ];
}

function faultCount({ faults }: Results): string {
  return faults.length === 0 ? 'none was lost or came twice' : `**${faults.length} faults**`;
}

function goalTable(results: Results): string[] {
  const rows = readGoals().map((goal) => {
    const result = judgeGoal(goal, results);
    const { worst, missed, checked } = result;
    const word = verdictOf(result);
    const verdict = word === 'MISSED' ? `**missed** (${missed} of ${checked})` : word.toLowerCase();
    const figure = worst ? `${worst.text} (${worst.what})` : '–';
    return [goal.goal, showLimit(goal), figure, verdict];
  });
  return table(['figure', 'goal', 'measured; of several the worst', ''], rows);
}

const DETAILS: readonly (readonly [string, Metric])[] = [
  ['total', 'totalS'],
  ['guest gap', 'gapMs'],
  ['wire / necessary', 'wireRatio'],
  ['allocation', 'allocationRatio'],
  ['disk speed, moving / before', 'diskRatio'],
  ['p99 flush, before', 'diskP99BeforeMs'],
  ['p99 flush, moving', 'diskP99Ms'],
  ['RAM writes, moving / before', 'ramRatio'],
  ['CPU per GiB', 'cpuSPerGib'],
  ['RSS', 'rssMib'],
  ['total × link / necessary', 'linkRatio'],
];

function scenarioPart(scenario: ScenarioResult): string[] {
  const names = Object.keys(scenario.movers) as MoverName[];
  const rows = names.map((name) => {
    const result = scenario.movers[name];
    const cells = DETAILS.map(([, metric]) => spreadText(metric, result?.spreads[metric]));
    const failed = result?.failures.length ?? 0;
    const turns = `${result?.turns.length ?? 0}${failed > 0 ? ` (+${failed} failed)` : ''}`;
    return [MOVER_TITLES[name], turns, ratio(scenario, 'totalS', name, 'floor'), ...cells];
  });
  const titles = ['', 'turns', 'total / by hand', ...DETAILS.map(([title]) => title)];
  // A column in which nothing was measured says nothing.
  const kept = titles.map((_, index) => index === 0 || rows.some((row) => row[index] !== '–'));
  const cut = (cells: readonly string[]) => cells.filter((_, index) => kept[index]);
  return [`### ${scenario.title}`, '', ...table(cut(titles), rows.map(cut)), ''];
}

function ratio(scenario: ScenarioResult, metric: Metric, mover: MoverName, against: MoverName) {
  const spread = compareRounds(scenario, { metric, mover, against, as: 'ratio' });
  if (!spread) return '–';
  const [median, min, max] = [spread.median, spread.min, spread.max].map((x) => x.toFixed(2));
  return `${median} (${min}–${max})`;
}

function median(scenario: ScenarioResult, metric: Metric, mover: MoverName): string {
  return spreadText(metric, scenario.movers[mover]?.spreads[metric]);
}

function spreadText(metric: Metric, spread: Spread | undefined): string {
  if (!spread) return '–';
  const bare = (value: number) => showMetric(metric, value).split(' ')[0] ?? '';
  return `${showMetric(metric, spread.median)} (${bare(spread.min)}–${bare(spread.max)})`;
}

function table(titles: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(titles), line(titles.map(() => '---')), ...rows.map(line)];
}
