import { expect } from 'vitest';
import { migrateUntil, mirrorDisk } from '../qmp-pair.js';
import { andWaitFor, type Behaviour, GENERIC, migrationStatus, status } from './behaviour.js';
import { finishMigration, settleMirror } from './steps.js';

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

/** How a migration goes that nothing happens to. */
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
      // QEMU says that it has completed a few instructions before its state does.
      while ((await status(source)) === 'finish-migrate') pair.signal.throwIfAborted();
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
];
