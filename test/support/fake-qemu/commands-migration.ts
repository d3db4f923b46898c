import type { Socket } from 'node:net';
import type { Commands } from './commands.js';
import { FakeQmpError } from './errors.js';
import { Incoming } from './incoming.js';
import type { Place, RamKeys } from './migration-machine.js';
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

  getfd: (qemu, args) => {
    const { fdname, socket } = args as { readonly fdname: string; readonly socket?: Socket };
    if (!socket) throw new FakeQmpError('No file descriptor supplied via SCM_RIGHTS');
    qemu.sockets.get(fdname)?.destroy();
    qemu.sockets.set(fdname, socket);
    return {};
  },
  closefd: (qemu, { fdname }) => {
    qemu.sockets.get(fdname)?.destroy();
    if (!qemu.sockets.delete(fdname)) {
      throw new FakeQmpError(`File descriptor named '${fdname}' not found`);
    }
    return {};
  },

  'migrate-incoming': async (qemu, args) => {
    if (!qemu.incoming) throw new FakeQmpError("'-incoming' was not specified on the command line");
    if (qemu.incomingMigration) {
      throw new FakeQmpError('The incoming migration has already been started');
    }
    const incoming = new Incoming(qemu, placeOf(qemu, args), keysOf(qemu, 'server'), {
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
    qemu.outgoing = new Outgoing(qemu, placeOf(qemu, args), keysOf(qemu, 'client'));
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

/** The address, given as text or as a channel. */
function placeOf(
  qemu: FakeQemu,
  args: { readonly uri?: string; readonly channels?: readonly { readonly addr: object }[] },
): Place {
  if (args.uri?.startsWith('unix:')) return { path: args.uri.slice(5) };
  const address = args.channels?.[0]?.addr as
    | { type?: string; path?: string; str?: string }
    | undefined;
  if (address?.type === 'unix' && address.path !== undefined) return { path: address.path };
  const name = address?.type === 'fd' ? address.str : undefined;
  if (name === undefined) {
    throw new FakeQmpError('The fake migrates over unix sockets and what it was handed only');
  }
  const socket = qemu.sockets.get(name);
  if (!socket) throw new FakeQmpError(`File descriptor named '${name}' has not been found`);
  qemu.sockets.delete(name);
  return { socket };
}

/** What stands in for TLS on the RAM. */
function keysOf(qemu: FakeQemu, end: 'client' | 'server'): RamKeys {
  const id = String(qemu.parameters['tls-creds'] ?? '');
  if (id === '') return {};
  return end === 'client'
    ? { client: qemu.objects.clientCredentials(id) }
    : { server: qemu.objects.serverKeys(id) };
}
