import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isPath } from '../unit/explorer/trace.js';
import { readHandovers } from './trace.js';

/** What the model says of the traces of a run. */
export interface TraceReport {
  /** Migrations that were looked at. */
  readonly checked: number;
  /** Those left out, because their rescue process cannot be listened to. */
  readonly rescued: number;
  /** What the model cannot do, in words. */
  readonly faults: readonly string[];
}

/** Asks the model whether it can do all that real migrations did. */
export function checkTraces(folder: string): TraceReport {
  const faults: string[] = [];
  let checked = 0;
  let rescued = 0;
  for (const name of readdirSync(folder)) {
    for (const trace of readHandovers(join(folder, name))) {
      if (trace.rescued) {
        rescued++;
        continue;
      }
      checked++;
      const fault = problemOf(trace.source, trace.destination);
      if (fault) faults.push(`${name}, migration ${trace.migrationId}: ${fault}`);
    }
  }
  return { checked, rescued, faults };
}

function problemOf(source: readonly string[], destination: readonly string[]): string | undefined {
  try {
    const verdict = isPath(source, destination);
    if (verdict.ok) return undefined;
    const { side, position, label } = verdict;
    return `the ${side} cannot come to "${label}" (${position})`;
  } catch (error) {
    return String(error);
  }
}
