import { expect } from 'vitest';
import { migrateUntil, mirrorDisk, ramUri, setCapabilities } from '../qmp-pair.js';
import { andWaitFor, type Behaviour, GENERIC, migrationStatus, status } from './behaviour.js';
import { finishMigration } from './steps.js';

/** How a migration ends that is cancelled, refused or cut off. */
export const FAILURE_CONTRACT: readonly Behaviour[] = [
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
    name: 'a destination that dies before the switchover leaves the guest stopped',
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
