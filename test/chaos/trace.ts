import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sideOf } from './points.js';
import type { Stage } from './run.js';

/** The events and records of one migration, each side's in its own order. */
export interface HandoverTrace {
  readonly migrationId: string;
  /** True where a rescue process has done something, which is not in the lists. */
  readonly rescued: boolean;
  readonly source: readonly string[];
  readonly destination: readonly string[];
}

/**
 * Writes what both sides did in one run, one JSON object a line: first the events and records of
 * the handover of each of its migrations, for the check that they are a path of the model; then
 * every effect, in the order in which the driver heard of it.
 */
export function writeTrace(
  folder: string,
  name: string,
  { effects, labels, moves }: Pick<Stage, 'effects' | 'labels' | 'moves'>,
  rescued: boolean,
): string {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${name}.jsonl`);
  const handovers = [...moves].map(([migrationId, from]): HandoverTrace => {
    // The end of an agent concerns every migration that it knows of by then.
    const own = labels.filter((label) => [migrationId, ''].includes(label.migrationId));
    const of = (isSource: boolean) => {
      const all = own.filter(({ host }) => (host === from) === isSource);
      const first = all.findIndex((label) => label.migrationId === migrationId);
      const heard = first < 0 ? [] : all.slice(first).map(({ label }) => label);
      // A first record of which it was not known whether it was written: the next life found it.
      const found = [isSource ? 'write STARTED' : 'write PREPARED', 'crash'];
      return heard[0]?.startsWith('event restarted') ? [...found, ...heard] : heard;
    };
    return { migrationId, rescued, source: of(true), destination: of(false) };
  });
  const [source = ''] = moves.values();
  const all = effects.map((effect) => {
    const { life, name: what, nth, atMs, armed, detail } = effect;
    return { side: sideOf(effect, source), life, effect: what, nth, atMs, armed, detail };
  });
  const lines = [...handovers, ...all].map((line) => JSON.stringify(line));
  writeFileSync(path, `${lines.join('\n')}\n`);
  return path;
}

/** The migrations of a trace. */
export function readHandovers(path: string): HandoverTrace[] {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  return lines.filter((line) => line.startsWith('{"migrationId"')).map((line) => JSON.parse(line));
}
