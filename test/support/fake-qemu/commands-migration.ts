import type { Commands } from './commands.js';
import { FakeQmpError } from './errors.js';
import { Incoming } from './incoming.js';
import { unixPathOf } from './migration-machine.js';
import { Outgoing } from './outgoing.js';
import type { FakeQemu } from './qemu.js';

const KNOWN_CAPABILITIES = [
  'xbzrle',
  'auto-converge',
  'events',
  'postcopy-ram',
  'return-path',
  'pause-before-switchover',
  'multifd',
  'dirty-bitmaps',
  'late-block-activate',
  'validate-uuid',
  'switchover-ack',
  'mapped-ram',
] as const;

/** Capabilities that a fake QEMU lists. */
export const FAKE_CAPABILITIES: ReadonlySet<(typeof KNOWN_CAPABILITIES)[number]> = new Set(
  KNOWN_CAPABILITIES,
);

/** Commands about RAM migration. */
export const MIGRATION_COMMANDS: Commands = {
  'migrate-set-capabilities': (qemu, args) => {
    assertIdle(qemu);
    for (const { capability, state } of args.capabilities) {
      if (state) qemu.capabilities.add(capability);
      else qemu.capabilities.delete(capability);
    }
    return {};
  },
  'query-migrate-capabilities': (qemu) =>
    KNOWN_CAPABILITIES.map((capability) => ({ capability, state: qemu.capability(capability) })),
  'migrate-set-parameters': (qemu, args) => {
    for (const [name, value] of Object.entries(args)) {
      if (!['number', 'string', 'boolean'].includes(typeof value)) continue;
      qemu.parameters[name] = value as number | string | boolean;
    }
    return {};
  },
  'query-migrate-parameters': (qemu) => qemu.parameters,
  'query-migrate': (qemu) => qemu.outgoing?.describe() ?? qemu.incomingMigration?.describe() ?? {},

  'migrate-incoming': async (qemu, args) => {
    if (!qemu.incoming) throw new FakeQmpError("'-incoming' was not specified on the command line");
    if (qemu.incomingMigration) {
      throw new FakeQmpError('The incoming migration has already been started');
    }
    const incoming = new Incoming(qemu, socketPath(args), {
      exitOnError: args['exit-on-error'] ?? true,
      startsByItself: () => qemu.startsByItself,
    });
    await incoming.start();
    qemu.incomingMigration = incoming;
    return {};
  },

  migrate: async (qemu, args) => {
    assertIdle(qemu);
    if (qemu.runState === 'inmigrate') {
      throw new FakeQmpError('Guest is waiting for an incoming migration');
    }
    if (qemu.runState === 'postmigrate') {
      throw new FakeQmpError("Can't migrate the vm that was paused due to previous migration");
    }
    qemu.outgoing = new Outgoing(qemu, socketPath(args));
    await qemu.outgoing.start();
    return {};
  },
  'migrate-continue': (qemu, args) => {
    if (!qemu.outgoing) throw new FakeQmpError('Migration not in expected state: none');
    qemu.outgoing.continue(args.state);
    return {};
  },
  migrate_cancel: async (qemu) => {
    await qemu.outgoing?.cancel();
    return {};
  },
  'calc-dirty-rate': () => ({}),
  'query-dirty-rate': () => ({
    status: 'measured',
    'start-time': 0,
    'calc-time': 1,
    'calc-time-unit': 'second',
    'sample-pages': 512,
    mode: 'page-sampling',
    'dirty-rate': 1,
  }),
};

function assertIdle(qemu: FakeQemu): void {
  if (qemu.outgoing?.active) throw new FakeQmpError("There's a migration process in progress");
}

function socketPath(args: Parameters<typeof unixPathOf>[0]): string {
  const path = unixPathOf(args);
  if (path === undefined) throw new FakeQmpError('The fake migrates over unix sockets only');
  return path;
}
