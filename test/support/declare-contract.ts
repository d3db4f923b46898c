import { describe, test } from 'vitest';
import type { Launcher } from '../../src/process/launcher.js';
import {
  type Behaviour,
  BLOCK_CONTRACT,
  MIGRATION_CONTRACT,
  MONITOR_CONTRACT,
} from './qmp-contract.js';
import { startPair } from './qmp-pair.js';

/** Declares the whole contract as tests that run on what the launcher starts. */
export function declareContract(start: () => { launcher: Launcher; binary: string }): void {
  const suites: readonly [string, readonly Behaviour[]][] = [
    ['migration', MIGRATION_CONTRACT],
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
