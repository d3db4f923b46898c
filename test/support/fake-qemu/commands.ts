import type { QmpCommandName } from '../../../src/qmp/client.js';
import type { QmpCommands } from '../../../src/qmp/types.gen.js';
import { BLOCK_COMMANDS } from './commands-block.js';
import { MACHINE_COMMANDS } from './commands-machine.js';
import { MIGRATION_COMMANDS } from './commands-migration.js';
import type { FakeQemu } from './qemu.js';

/** How fakes answer commands. Typed by QEMU's own schema, which keeps the answers in shape. */
export type Commands = {
  readonly [C in QmpCommandName]?: (
    qemu: FakeQemu,
    args: QmpCommands[C]['arguments'],
  ) => QmpCommands[C]['return'] | Promise<QmpCommands[C]['return']>;
};

type AnyHandler = (qemu: FakeQemu, args: Readonly<Record<string, unknown>>) => unknown;

/** All commands that a fake QEMU knows. */
export const COMMANDS: ReadonlyMap<string, AnyHandler> = new Map(
  [BLOCK_COMMANDS, MACHINE_COMMANDS, MIGRATION_COMMANDS].flatMap(
    (commands) => Object.entries(commands) as unknown as [string, AnyHandler][],
  ),
);
