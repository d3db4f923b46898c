import { createServer } from 'node:net';
import { expect } from 'vitest';
import { QmpClient } from '../../src/qmp/client.js';
import { QmpTimeoutError } from '../../src/qmp/errors.js';
import type { QmpEventName } from '../../src/qmp/event-listener.js';
import {
  addTarget,
  exportDisk,
  migrateUntil,
  mirrorDisk,
  type Pair,
  type PairOptions,
  ramUri,
  type Side,
  setCapabilities,
  startMirror,
} from './qmp-pair.js';

/** One behaviour of QEMU that the product depends on. It holds for the real one and for the fake. */
export interface Behaviour {
  readonly name: string;
  readonly options?: PairOptions;
  readonly check: (pair: Pair) => Promise<void>;
}

const GENERIC = { name: 'QmpError', errorClass: 'GenericError' };
const NOT_ACTIVE = { name: 'QmpError', errorClass: 'DeviceNotActive' };

async function status(side: Side): Promise<string> {
  return (await side.qmp.execute('query-status')).status;
}

async function migrationStatus(side: Side): Promise<string | undefined> {
  return (await side.qmp.execute('query-migrate')).status;
}

/** Does something and waits for the event that it leads to. */
async function andWaitFor<E extends QmpEventName>(
  pair: Pair,
  side: Side,
  name: E,
  wanted: string | undefined,
  act: () => Promise<unknown>,
): Promise<void> {
  using events = side.qmp.listen(name);
  await act();
  const matches = (event: { data: object }) =>
    wanted === undefined || (event.data as { status?: string }).status === wanted;
  await events.next(matches, { signal: pair.signal });
}

async function settleMirror(pair: Pair): Promise<void> {
  const { qmp } = pair.source;
  await andWaitFor(pair, pair.source, 'JOB_STATUS_CHANGE', 'concluded', () =>
    qmp.execute('block-job-cancel', { device: 'mirror0' }),
  );
  expect(await qmp.execute('query-jobs')).toMatchObject([{ id: 'mirror0', status: 'concluded' }]);
  await qmp.execute('job-dismiss', { id: 'mirror0' });
  await qmp.execute('blockdev-del', { 'node-name': 'target0' });
  await qmp.execute('object-del', { id: 'tls0' });
}

async function finishMigration(pair: Pair): Promise<void> {
  using loaded = pair.destination.qmp.listen('MIGRATION');
  await andWaitFor(pair, pair.source, 'MIGRATION', 'completed', () =>
    pair.source.qmp.execute('migrate-continue', { state: 'pre-switchover' }),
  );
  await loaded.next((event) => event.data.status === 'completed', { signal: pair.signal });
}

const MIRROR_EVENTS = [
  'JOB_STATUS_CHANGE created mirror0',
  'JOB_STATUS_CHANGE running mirror0',
  'JOB_STATUS_CHANGE ready mirror0',
  'BLOCK_JOB_READY mirror0',
];
const BLINK = ['JOB_STATUS_CHANGE standby mirror0', 'JOB_STATUS_CHANGE ready mirror0'];
const SETTLE_EVENTS = [
  'JOB_STATUS_CHANGE waiting mirror0',
  'JOB_STATUS_CHANGE pending mirror0',
  'BLOCK_JOB_COMPLETED mirror0',
  'JOB_STATUS_CHANGE concluded mirror0',
  'JOB_STATUS_CHANGE null mirror0',
];

export const MIGRATION_CONTRACT: readonly Behaviour[] = [
  {
    name: 'a migration of disk and RAM goes through its statuses and events in this order',
    check: async (pair) => {
      const { source, destination } = pair;
      expect([await status(source), await status(destination)]).toEqual(['running', 'inmigrate']);
      expect(await migrationStatus(source)).toBeUndefined();
      await mirrorDisk(pair);
      await migrateUntil(pair, 'pre-switchover');
      expect([await status(source), await status(destination)]).toEqual([
        'finish-migrate',
        'inmigrate',
      ]);
      expect([await migrationStatus(source), await migrationStatus(destination)]).toEqual([
        'pre-switchover',
        'active',
      ]);
      await expect(source.qmp.execute('cont')).rejects.toMatchObject(GENERIC);
      await settleMirror(pair);
      await finishMigration(pair);
      expect([await status(source), await status(destination)]).toEqual(['postmigrate', 'paused']);
      expect([await migrationStatus(source), await migrationStatus(destination)]).toEqual([
        'completed',
        'completed',
      ]);
      await destination.qmp.execute('nbd-server-stop');
      expect(await destination.qmp.execute('query-block-exports')).toEqual([]);
      await destination.qmp.execute('cont');
      expect(await status(destination)).toBe('running');
      expect(source.events).toEqual([
        ...MIRROR_EVENTS,
        'MIGRATION setup',
        'MIGRATION active',
        ...BLINK,
        'STOP',
        ...BLINK,
        'MIGRATION pre-switchover',
        ...SETTLE_EVENTS,
        'MIGRATION device',
        'MIGRATION completed',
      ]);
      expect(destination.events).toEqual([
        'MIGRATION setup',
        'MIGRATION active',
        'MIGRATION completed',
        'BLOCK_EXPORT_DELETED export0',
        'RESUME',
      ]);
    },
  },
  {
    name: 'a guest that never ran arrives as it was, and nothing says STOP',
    options: { stopped: true },
    check: async (pair) => {
      const { source, destination } = pair;
      expect(await status(source)).toBe('prelaunch');
      await migrateUntil(pair, 'pre-switchover');
      expect(await status(source)).toBe('finish-migrate');
      await finishMigration(pair);
      expect([await status(source), await status(destination)]).toEqual([
        'postmigrate',
        'prelaunch',
      ]);
      expect(source.events).not.toContain('STOP');
    },
  },
  {
    name: 'a guest that was paused arrives paused',
    check: async (pair) => {
      await pair.source.qmp.execute('stop');
      expect(await status(pair.source)).toBe('paused');
      await migrateUntil(pair, 'pre-switchover');
      await finishMigration(pair);
      expect(await status(pair.destination)).toBe('paused');
    },
  },
  {
    name: 'a cancelled switchover of a paused guest leaves it paused',
    check: async (pair) => {
      await pair.source.qmp.execute('stop');
      await migrateUntil(pair, 'pre-switchover');
      await andWaitFor(pair, pair.source, 'MIGRATION', 'cancelled', () =>
        pair.source.qmp.execute('migrate_cancel'),
      );
      expect(await status(pair.source)).toBe('paused');
      expect(pair.source.events).not.toContain('RESUME');
    },
  },
  {
    name: 'a migration that is cancelled before the switchover never stops the guest',
    check: async (pair) => {
      const { source, destination } = pair;
      await migrateUntil(pair, 'active', { crawl: true });
      await andWaitFor(pair, destination, 'MIGRATION', 'failed', () =>
        andWaitFor(pair, source, 'MIGRATION', 'cancelled', () =>
          source.qmp.execute('migrate_cancel'),
        ),
      );
      expect([await status(source), await status(destination)]).toEqual(['running', 'inmigrate']);
      expect([await migrationStatus(source), await migrationStatus(destination)]).toEqual([
        'cancelled',
        'failed',
      ]);
      expect(source.events).toEqual([
        'MIGRATION setup',
        'MIGRATION active',
        'MIGRATION cancelling',
        'MIGRATION cancelled',
      ]);
      await source.qmp.execute('migrate_cancel');
      await expect(
        source.qmp.execute('migrate-continue', { state: 'pre-switchover' }),
      ).rejects.toMatchObject(GENERIC);
      await expect(
        destination.qmp.execute('migrate-incoming', { uri: ramUri(pair), 'exit-on-error': false }),
      ).rejects.toMatchObject(GENERIC);
    },
  },
  {
    name: 'a cancelled switchover resumes the guest before it says so, and the mirror stays',
    check: async (pair) => {
      const { source, destination } = pair;
      await mirrorDisk(pair);
      await migrateUntil(pair, 'pre-switchover');
      await andWaitFor(pair, destination, 'MIGRATION', 'failed', () =>
        andWaitFor(pair, source, 'MIGRATION', 'cancelled', () =>
          source.qmp.execute('migrate_cancel'),
        ),
      );
      expect([await status(source), await status(destination)]).toEqual(['running', 'inmigrate']);
      expect(source.events.slice(-3)).toEqual([
        'MIGRATION cancelling',
        'RESUME',
        'MIGRATION cancelled',
      ]);
      expect(await source.qmp.execute('query-block-jobs')).toMatchObject([{ status: 'ready' }]);
    },
  },
  {
    name: 'a destination that dies during precopy fails the migration and the guest runs on',
    check: async (pair) => {
      const { source, destination } = pair;
      await migrateUntil(pair, 'active', { crawl: true });
      await andWaitFor(pair, source, 'MIGRATION', 'failed', () => destination.qemu.kill());
      expect(await status(source)).toBe('running');
      expect(source.events).not.toContain('STOP');
    },
  },
  {
    name: 'a destination that dies before the switchover leaves the guest stopped until told to go on',
    check: async (pair) => {
      const { source, destination } = pair;
      await mirrorDisk(pair);
      await migrateUntil(pair, 'pre-switchover');
      await destination.qemu.kill();
      expect([await status(source), await migrationStatus(source)]).toEqual([
        'finish-migrate',
        'pre-switchover',
      ]);
      const before = source.events.length;
      await andWaitFor(pair, source, 'JOB_STATUS_CHANGE', 'concluded', () =>
        source.qmp.execute('block-job-cancel', { device: 'mirror0' }),
      );
      expect(source.events.slice(before)).toEqual([
        'BLOCK_JOB_ERROR mirror0',
        'JOB_STATUS_CHANGE aborting mirror0',
        'BLOCK_JOB_COMPLETED mirror0 error',
        'JOB_STATUS_CHANGE concluded mirror0',
      ]);
      expect((await source.qmp.execute('query-jobs'))[0]?.error).toBeDefined();
      await andWaitFor(pair, source, 'RESUME', undefined, () =>
        source.qmp.execute('migrate-continue', { state: 'pre-switchover' }),
      );
      expect(source.events.slice(-3)).toEqual(['MIGRATION device', 'MIGRATION failed', 'RESUME']);
      expect([await status(source), await migrationStatus(source)]).toEqual(['running', 'failed']);
    },
  },
  {
    name: 'a source that dies fails the load, and the destination still answers',
    check: async (pair) => {
      const { source, destination } = pair;
      await migrateUntil(pair, 'active', { crawl: true });
      await andWaitFor(pair, destination, 'MIGRATION', 'failed', () => source.qemu.kill());
      expect([await status(destination), await migrationStatus(destination)]).toEqual([
        'inmigrate',
        'failed',
      ]);
    },
  },
  {
    name: 'a guest with another UUID is not loaded',
    options: { destinationUuid: '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0002' },
    check: async (pair) => {
      const { source, destination } = pair;
      for (const side of [destination, source]) await setCapabilities(side);
      const uri = ramUri(pair);
      using failed = destination.qmp.listen('MIGRATION');
      await destination.qmp.execute('migrate-incoming', { uri, 'exit-on-error': false });
      await source.qmp.execute('migrate', { uri });
      await failed.next((event) => event.data.status === 'failed', { signal: pair.signal });
      expect(await status(destination)).toBe('inmigrate');
    },
  },
  {
    name: 'a cont that comes before the guest is loaded lets it start by itself',
    check: async (pair) => {
      const { destination } = pair;
      await destination.qmp.execute('cont');
      expect(await status(destination)).toBe('inmigrate');
      await migrateUntil(pair, 'pre-switchover');
      await andWaitFor(pair, destination, 'RESUME', undefined, () => finishMigration(pair));
      expect(await status(destination)).toBe('running');
    },
  },
  {
    name: 'a migration to where nobody listens fails after it was accepted',
    check: async (pair) => {
      const { source } = pair;
      await setCapabilities(source);
      await andWaitFor(pair, source, 'MIGRATION', 'failed', () =>
        source.qmp.execute('migrate', { uri: ramUri(pair) }),
      );
      expect(source.events).toEqual(['MIGRATION setup', 'MIGRATION failed']);
      expect((await source.qmp.execute('query-migrate'))['error-desc']).toBeDefined();
      expect(await status(source)).toBe('running');
    },
  },
  {
    name: 'a second migration and a change of capabilities are refused while one runs',
    check: async (pair) => {
      const { source, destination } = pair;
      await migrateUntil(pair, 'pre-switchover');
      await expect(setCapabilities(source)).rejects.toMatchObject(GENERIC);
      await setCapabilities(destination);
      await expect(source.qmp.execute('migrate', { uri: ramUri(pair) })).rejects.toMatchObject(
        GENERIC,
      );
      await finishMigration(pair);
      await expect(source.qmp.execute('migrate', { uri: ramUri(pair) })).rejects.toMatchObject(
        GENERIC,
      );
      await source.qmp.execute('cont');
      expect(await status(source)).toBe('running');
    },
  },
];

export const BLOCK_CONTRACT: readonly Behaviour[] = [
  {
    name: 'only who has the key, the name and TLS gets to an export',
    check: async (pair) => {
      await exportDisk(pair);
      await expect(addTarget(pair, { key: true })).rejects.toMatchObject(GENERIC);
      await expect(addTarget(pair, { exportName: true })).rejects.toMatchObject(GENERIC);
      await expect(addTarget(pair, { tls: false })).rejects.toMatchObject(GENERIC);
      await addTarget(pair);
      const nodes = await pair.source.qmp.execute('query-named-block-nodes', { flat: true });
      expect(nodes.find((node) => node['node-name'] === 'target0')?.image['virtual-size']).toBe(
        4 * 1024 * 1024,
      );
    },
  },
  {
    name: 'nobody listens: the target cannot be added',
    check: async (pair) => {
      await expect(addTarget(pair)).rejects.toMatchObject(GENERIC);
    },
  },
  {
    name: 'an NBD server does not start on a port that is taken, and starts once the port is free',
    check: async (pair) => {
      const { qmp } = pair.destination;
      const other = createServer();
      await new Promise<void>((resolve) => other.listen(pair.port, '127.0.0.1', resolve));
      const addr = { type: 'inet', data: { host: '127.0.0.1', port: String(pair.port) } } as const;
      await expect(qmp.execute('nbd-server-start', { addr })).rejects.toMatchObject(GENERIC);
      await new Promise((resolve) => other.close(resolve));
      await qmp.execute('nbd-server-start', { addr });
      await expect(qmp.execute('nbd-server-start', { addr })).rejects.toMatchObject(GENERIC);
      await qmp.execute('nbd-server-stop');
      await expect(qmp.execute('nbd-server-stop')).rejects.toMatchObject(GENERIC);
    },
  },
  {
    name: 'an export needs a free id, a free name, a node and a server; a running disk is not given away',
    check: async (pair) => {
      const { qmp } = pair.destination;
      const add = (id: string, name: string, node: string) =>
        qmp.execute('block-export-add', {
          type: 'nbd',
          id,
          name,
          'node-name': node,
          writable: true,
        });
      await expect(add('export0', 'nonce0', 'disk0')).rejects.toMatchObject(GENERIC);
      await exportDisk(pair);
      await expect(add('export0', 'nonce1', 'disk0')).rejects.toMatchObject(GENERIC);
      await expect(add('export1', 'nonce0', 'disk0')).rejects.toMatchObject(GENERIC);
      await expect(add('export1', 'nonce1', 'absent')).rejects.toMatchObject(GENERIC);
      expect(await qmp.execute('query-block-exports')).toMatchObject([
        { id: 'export0', 'node-name': 'disk0', type: 'nbd' },
      ]);
    },
  },
  {
    name: 'a mirror onto another size is accepted and then fails by event',
    options: { destinationDiskBytes: 2 * 1024 * 1024 },
    check: async (pair) => {
      await exportDisk(pair);
      await addTarget(pair);
      await andWaitFor(pair, pair.source, 'JOB_STATUS_CHANGE', 'concluded', () =>
        startMirror(pair),
      );
      expect(pair.source.events).toEqual([
        'JOB_STATUS_CHANGE created mirror0',
        'JOB_STATUS_CHANGE running mirror0',
        'JOB_STATUS_CHANGE aborting mirror0',
        'BLOCK_JOB_COMPLETED mirror0 error',
        'JOB_STATUS_CHANGE concluded mirror0',
      ]);
    },
  },
  {
    name: 'a mirror switched to write-blocking becomes actively synced without an event',
    check: async (pair) => {
      const { qmp } = pair.source;
      await mirrorDisk(pair);
      await qmp.execute('block-job-change', {
        id: 'mirror0',
        type: 'mirror',
        'copy-mode': 'write-blocking',
      });
      await expect
        .poll(() => qmp.execute('query-block-jobs'), { timeout: 5000, interval: 20 })
        .toMatchObject([{ type: 'mirror', status: 'ready', 'actively-synced': true }]);
    },
  },
  {
    name: 'a mirror ended by force is cancelled and stays until it is dismissed',
    check: async (pair) => {
      const { source } = pair;
      const { qmp } = source;
      await mirrorDisk(pair);
      await expect(qmp.execute('job-dismiss', { id: 'mirror0' })).rejects.toMatchObject(GENERIC);
      await expect(qmp.execute('blockdev-del', { 'node-name': 'target0' })).rejects.toMatchObject(
        GENERIC,
      );
      const before = source.events.length;
      await andWaitFor(pair, source, 'JOB_STATUS_CHANGE', 'concluded', () =>
        qmp.execute('block-job-cancel', { device: 'mirror0', force: true }),
      );
      expect(source.events.slice(before)).toEqual([
        'JOB_STATUS_CHANGE aborting mirror0',
        'BLOCK_JOB_CANCELLED mirror0',
        'JOB_STATUS_CHANGE concluded mirror0',
      ]);
      expect((await qmp.execute('query-jobs'))[0]?.error).toBeDefined();
      await qmp.execute('job-dismiss', { id: 'mirror0' });
      expect(await qmp.execute('query-jobs')).toEqual([]);
      await qmp.execute('blockdev-del', { 'node-name': 'target0' });
    },
  },
  {
    name: 'what does not exist is refused, each in its own class',
    check: async (pair) => {
      const { qmp } = pair.source;
      const device = { device: 'mirror0' };
      await expect(qmp.execute('block-job-cancel', device)).rejects.toMatchObject(NOT_ACTIVE);
      await expect(
        qmp.execute('block-job-change', {
          id: 'mirror0',
          type: 'mirror',
          'copy-mode': 'write-blocking',
        }),
      ).rejects.toMatchObject(NOT_ACTIVE);
      await expect(qmp.execute('job-dismiss', { id: 'mirror0' })).rejects.toMatchObject(GENERIC);
      await expect(qmp.execute('blockdev-del', { 'node-name': 'x' })).rejects.toMatchObject(
        GENERIC,
      );
      await expect(qmp.execute('object-del', { id: 'x' })).rejects.toMatchObject(GENERIC);
      await expect(startMirror(pair)).rejects.toMatchObject(GENERIC);
    },
  },
];

export const MONITOR_CONTRACT: readonly Behaviour[] = [
  {
    name: 'one monitor serves one client; the rescue monitor answers beside it and hears the events',
    check: async ({ source, signal }) => {
      const path = source.qemu.record.directory;
      await expect(
        QmpClient.connect(`${path}/agent.sock`, { connectLimitMs: 200 }),
      ).rejects.toBeInstanceOf(QmpTimeoutError);
      await using rescue = await QmpClient.connect(source.qemu.rescueMonitorPath);
      using stopped = rescue.listen('STOP');
      await source.qmp.execute('stop');
      await stopped.next({ signal });
      expect((await rescue.execute('query-uuid')).UUID).toBe(source.qemu.record.uuid);
    },
  },
  {
    name: 'out-of-band commands are answered, and list what can be broken by force',
    check: async (pair) => {
      await mirrorDisk(pair);
      expect(await pair.source.qmp.executeOob('query-yank')).toContainEqual({
        type: 'block-node',
        'node-name': 'target0',
      });
    },
  },
  {
    name: 'quit says SHUTDOWN, answers, and the process ends with 0',
    check: async ({ source }) => {
      expect(await source.qemu.quit()).toEqual({ code: 0, signal: undefined });
      expect(source.events).toEqual(['SHUTDOWN host-qmp-quit']);
    },
  },
];
