import { createServer } from 'node:net';
import { expect } from 'vitest';
import { addTarget, exportDisk, mirrorDisk, startMirror } from '../qmp-pair.js';
import { andWaitFor, type Behaviour, GENERIC, NOT_ACTIVE } from './behaviour.js';

/** Exports, targets and mirror jobs. */
export const BLOCK_CONTRACT: readonly Behaviour[] = [
  {
    name: 'only who has the key, the name and TLS gets to an export',
    check: async (pair) => {
      await exportDisk(pair);
      await expect(addTarget(pair, { key: true })).rejects.toMatchObject(GENERIC);
      await expect(addTarget(pair, { exportName: true })).rejects.toMatchObject(GENERIC);
      await expect(addTarget(pair, { tls: false })).rejects.toMatchObject(GENERIC);
      await addTarget(pair);
      const objects = await pair.source.qmp.execute('qom-list', { path: '/objects' });
      expect(objects).toContainEqual({ name: 'tls0', type: 'child<tls-creds-psk>' });
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
    name: 'an export needs a free id, a free name, a node and a server',
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
