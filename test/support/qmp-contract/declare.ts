import { describe, test } from 'vitest';
import type { Launcher } from '../../../src/process/launcher.js';
import { startPair } from '../qmp-pair.js';
import type { Behaviour } from './behaviour.js';
import { BLOCK_CONTRACT } from './disks.js';
import { FAILURE_CONTRACT } from './failures.js';
import { MIGRATION_CONTRACT } from './migration.js';
import { MONITOR_CONTRACT } from './monitors.js';

/** Declares the whole contract as tests that run on what the launcher starts. */
export function declareContract(start: () => { launcher: Launcher; binary: string }): void {
  const suites: readonly [string, readonly Behaviour[]][] = [
    ['migration', MIGRATION_CONTRACT],
    ['failures', FAILURE_CONTRACT],
    ['disks', BLOCK_CONTRACT],
    ['monitors', MONITOR_CONTRACT],
  ];
  for (const [name, behaviours] of suites) {
    describe(name, () => {
      for (const behaviour of behaviours) {
        test(behaviour.name, async () => {
          const { launcher, binary } = start();
          await using pair = await startPair(launcher, binary, behaviour.options);
          await behaviour.check(pair);
        });
      }
    });
  }
}
