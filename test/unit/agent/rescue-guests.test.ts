import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { freeGuest } from '../../../src/agent/rescue-guest.js';
import { freeGuests, lookAtGuests } from '../../../src/agent/rescue-guests.js';
import { StateLock } from '../../../src/process/state-lock.js';
import { QmpClient } from '../../../src/qmp/client.js';
import { memoryLog } from '../../support/fake-agent.js';
import { hold } from '../../support/fake-qemu/faults.js';
import { FakeLauncher } from '../../support/fake-qemu.js';
import { migrateUntil } from '../../support/qmp-pair.js';
import { RescueStage, type Said } from '../../support/rescue-stage.js';

const log = memoryLog();
let launcher: FakeLauncher;
let stage: RescueStage;

beforeEach(async () => {
  launcher = new FakeLauncher({ idle: true });
  stage = await RescueStage.open(launcher, '/fake/qemu-system-x86_64');
});

afterEach(() => stage[Symbol.asyncDispose]());

/** The guest is stopped, and the migration can still be cancelled. */
async function stopGuest(): Promise<void> {
  await migrateUntil(stage.pair, 'pre-switchover');
}

/** QEMU has sent everything and waits. */
async function completeMigration(): Promise<void> {
  const { qmp } = stage.pair.source;
  await stopGuest();
  using events = qmp.listen('MIGRATION');
  await qmp.execute('migrate-continue', { state: 'pre-switchover' });
  await events.next(({ data }) => data.status === 'completed', { signal: stage.pair.signal });
}

/** What was asked of the source's QEMU that changes anything. */
function asked(): string[] {
  const changes = ['migrate_cancel', 'cont', 'stop', 'yank', 'quit'];
  const received = launcher.qemus[0]?.received ?? [];
  return received.map(({ command }) => command).filter((command) => changes.includes(command));
}

const free = () => freeGuests(stage.directories, log);

describe('a guest that a migration holds', () => {
  it('runs again before the switchover, and the journal says who has decided that', async () => {
    const path = await stage.write(['STARTED', 'DST_PREPARED', 'RAM']);
    await stopGuest();
    expect(await free()).toBe('freed');
    expect(await stage.guest()).toBe('running');
    expect(await stage.read(path)).toMatchObject([
      {},
      {},
      {},
      { record: 'ABORTED', by: 'rescue', guest: 'finish-migrate', epoch: 0, generation: 1 },
    ]);
    expect(await free()).toBe('fine');
    expect(asked()).not.toContain('cont');
  });

  it('runs again after its RAM has gone over, and only once that is written down', async () => {
    const path = await stage.write(['STARTED', 'DST_PREPARED', ['SWITCHING', { paused: false }]]);
    await completeMigration();
    const before: string[] = [];
    launcher.faults.add({
      at: { command: 'cont' },
      action: async () => {
        before.push(...(await stage.read(path)).map(({ record }) => record));
      },
    });
    expect(await free()).toBe('freed');
    expect(await stage.guest()).toBe('running');
    expect(before).toEqual(['STARTED', 'DST_PREPARED', 'SWITCHING', 'ABORTED']);
  });

  it.each<[string, readonly Said[]]>([
    ['giving up', ['STARTED', 'DST_PREPARED', 'SWITCHING', 'ABORTED']],
    ['taking it back', ['STARTED', 'DST_PREPARED', 'SWITCHING', 'COMMITTED', 'RECLAIMED']],
  ])('runs again where the agent ended between %s and bringing it back', async (_, records) => {
    const path = await stage.write(records);
    await completeMigration();
    expect(await free()).toBe('freed');
    expect(await stage.guest()).toBe('running');
    expect(await stage.read(path)).toHaveLength(records.length);
  });

  it.each<[string, readonly Said[]]>([
    ['was given up', ['STARTED', 'DST_PREPARED', 'SWITCHING', 'COMMITTED']],
    ['was given up and is in doubt', ['STARTED', 'SWITCHING', 'COMMITTED', 'IN_DOUBT']],
    ['was taken', ['STARTED', 'SWITCHING', 'COMMITTED', 'DONE']],
    ['was outranked', ['STARTED', 'SWITCHING', 'COMMITTED', 'RECLAIMED', 'SUPERSEDED']],
    ['was paused by its user', ['STARTED', 'DST_PREPARED', ['SWITCHING', { paused: true }]]],
    ['was outranked, and that is all over', ['STARTED', 'RECLAIMED', 'ENDED', 'SUPERSEDED']],
    ['is of a migration that has ended', ['STARTED', 'ABORTED', 'ENDED']],
  ])('is not touched when it %s', async (_, records) => {
    const path = await stage.write(records);
    await completeMigration();
    expect(await lookAtGuests(stage.directories, log)).toBe('nothing');
    expect(await free()).toBe('nothing');
    expect(await stage.guest()).toBe('postmigrate');
    expect(asked()).toEqual([]);
    expect(await stage.read(path)).toHaveLength(records.length);
  });

  it('is not touched when the host has booted since', async () => {
    await stage.write(['STARTED', 'DST_PREPARED', 'SWITCHING'], { bootId: 'another' });
    await completeMigration();
    expect(await free()).toBe('nothing');
    expect(asked()).toEqual([]);
  });

  it('is not touched when another journal of it cannot be read, or says otherwise', async () => {
    const path = await stage.write(['STARTED', 'DST_PREPARED', 'SWITCHING']);
    await completeMigration();
    const broken = join(dirname(path), '01931c2a-0000-7000-8000-000000000009.source.log');
    writeFileSync(broken, 'no journal');
    expect(await free()).toBe('nothing');
    writeFileSync(broken, '');
    expect(await free()).toBe('nothing');
    expect(asked()).toEqual([]);
  });

  it('is not touched while a migration of the same copy has been given up', async () => {
    await stage.write(['STARTED', 'DST_PREPARED', 'SWITCHING'], { id: 1 });
    await stage.write(['STARTED', 'SWITCHING', 'COMMITTED'], { id: 2 });
    await completeMigration();
    expect(await free()).toBe('nothing');
    expect(asked()).toEqual([]);
  });

  it('is freed whatever was said of an older copy of the domain', async () => {
    await stage.write(['STARTED', 'COMMITTED', 'DONE'], { id: 1, generation: 1 });
    await stage.write(['PREPARED', 'LOADED', 'OWNED', 'RUNNING'], {
      id: 2,
      side: 'destination',
      generation: 3,
    });
    await stage.write(['STARTED', 'DST_PREPARED', 'SWITCHING'], { id: 3, generation: 3 });
    await completeMigration();
    expect(await free()).toBe('freed');
    expect(await stage.guest()).toBe('running');
  });

  it('waits while somebody else has the state', async () => {
    const path = await stage.write(['STARTED', 'DST_PREPARED']);
    await stopGuest();
    {
      await using _agent = await StateLock.acquire(stage.directories.state);
      expect(await lookAtGuests(stage.directories, log)).toBe('held');
      expect(await free()).toBe('locked');
      expect(asked()).toEqual([]);
      expect(await stage.read(path)).toHaveLength(2);
    }
    expect(await free()).toBe('freed');
    await using _next = await StateLock.acquire(stage.directories.state);
  });
});

describe('a QEMU that does not answer', () => {
  it.each<['held' | 'fine', Said]>([
    ['held', 'SWITCHING'],
    ['fine', 'RAM'],
  ])('is taken to be %s, where the journal says %s', async (held, last) => {
    await stage.write(['STARTED', 'DST_PREPARED', last]);
    await using _other = await QmpClient.connect(stage.monitorPath);
    expect(await lookAtGuests(stage.directories, log)).toBe(held);
    expect(await free()).toBe('failed');
    expect(asked()).toEqual([]);
  });
});

describe('a guest that no migration holds', () => {
  it('is left to the agent that comes next, and so is its migration', async () => {
    const path = await stage.write(['STARTED', 'DST_PREPARED', 'RAM']);
    await migrateUntil(stage.pair, 'active', { crawl: true });
    expect(await lookAtGuests(stage.directories, log)).toBe('fine');
    expect(await free()).toBe('fine');
    expect(asked()).toEqual([]);
    expect(await stage.read(path)).toHaveLength(3);
  });

  it('is no matter when its QEMU has gone', async () => {
    await stage.write(['STARTED', 'DST_PREPARED', 'SWITCHING']);
    launcher.killAll();
    expect(await free()).toBe('fine');
  });
});

describe('freeing one guest', () => {
  const rescue = (decide: () => Promise<boolean>, uuid = stage.uuid) =>
    freeGuest({ monitorPath: stage.monitorPath, uuid, decide });
  const full = async () => {
    throw new Error('the disk is full');
  };

  it('cancels a migration that can be cancelled even where nothing can be written', async () => {
    await stopGuest();
    expect(await rescue(full)).toBe('running');
  });

  it('resumes nothing after the RAM has gone over where nothing can be written', async () => {
    await completeMigration();
    await expect(rescue(full)).rejects.toThrow('the disk is full');
    expect(asked()).toEqual([]);
    expect(await stage.guest()).toBe('postmigrate');
  });

  it('does nothing to a QEMU that runs another domain', async () => {
    await stopGuest();
    const other = '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0009';
    expect(await rescue(async () => true, other)).toBe('foreign');
    expect(asked()).toEqual([]);
  });

  it('cuts the connections that QEMU waits for, and then comes through', async () => {
    await stopGuest();
    const stalled = hold();
    launcher.faults.add({ at: { command: 'migrate_cancel' }, action: stalled.action });
    launcher.faults.add({ at: { command: 'yank' }, action: () => stalled.release() });
    expect(await rescue(async () => true)).toBe('running');
    const yanks = launcher.qemus[0]?.received.filter(({ command }) => command === 'yank');
    expect(yanks).toMatchObject([{ args: { instances: [{ type: 'migration' }] } }]);
  });

  it('gives up after some seconds on a QEMU that never answers', async () => {
    await stopGuest();
    const stalled = hold();
    launcher.faults.add({ at: { command: 'migrate_cancel' }, action: stalled.action });
    const startedMs = performance.now();
    await expect(rescue(async () => true)).rejects.toMatchObject({ name: 'StalledGuestError' });
    expect(performance.now() - startedMs).toBeLessThan(8_000);
    stalled.release();
  });
});
