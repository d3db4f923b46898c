import { chmod, copyFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fileNode } from '../../src/domain/names.js';
import type { PeerHandler } from '../../src/migration/peer.js';
import { defaultLauncher } from '../../src/process/default-launcher.js';
import { type DiskContent, readDisk } from '../support/blocks.js';
import { watchToEnd } from '../support/fleet.js';
import type { Ledger } from '../support/ledger.js';
import { RealFleet, type RealGuest } from '../support/real-fleet.js';
import {
  type LoggedOperation,
  PowerLossLauncher,
  readWriteLog,
  replay,
  survivors,
} from '../support/write-log.js';

const MIB = 1024 ** 2;
const DISK_BYTES = 8 * MIB;
/** Slow enough that the guest can write while its RAM is on its way, and faster than it writes. */
const SLOW = { memoryBytes: 768 * MIB, maxBandwidthBytesPerS: 4 * MIB };

let folder: string;
let beta: PowerLossLauncher;
let hosts: RealFleet;
/** Called once, when beta is told that the guest is its own now, before it lets it run. */
let beforeCommit: () => Promise<void>;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-power-loss-'));
  await chmod(folder, 0o711);
  beta = new PowerLossLauncher(defaultLauncher(), folder);
  beforeCommit = async () => undefined;
  hosts = await RealFleet.start(['alpha', 'beta'], {
    parts: (host) => (host === 'beta' ? { launcher: beta, handler: heedingCommit } : {}),
  });
});
afterEach(async () => {
  await hosts[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** The same handler, with `beforeCommit` before the first commit. */
function heedingCommit(handler: PeerHandler): PeerHandler {
  let called: Promise<void> | undefined;
  return new Proxy(handler, {
    get(_, name) {
      if (name === 'commit') {
        return async (...args: Parameters<PeerHandler['commit']>) => {
          called ??= beforeCommit();
          await called;
          return await handler.commit(...args);
        };
      }
      const value: unknown = Reflect.get(handler, name, handler);
      return typeof value === 'function' ? value.bind(handler) : value;
    },
  });
}

const replayedImage = () => join(folder, 'replayed.raw');

/** What the guest's disk on beta holds after these operations. */
async function contentAfter(operations: readonly LoggedOperation[]): Promise<DiskContent> {
  await replay(operations, replayedImage(), DISK_BYTES);
  return await readDisk(replayedImage(), { guest: 'boot-sector' });
}

function expectNothingLost(ledger: Ledger, content: DiskContent): void {
  expect(ledger.describeFaults()).toBe('');
  expect(ledger.ackedWrites).toBeGreaterThanOrEqual(30);
  expect(ledger.lostWrites(content)).toEqual([]);
  expect(content.tornSlots).toEqual([]);
}

/** Takes beta's power away and asserts that no acknowledged write is lost by that, none torn. */
async function losePower(guest: RealGuest) {
  guest.arrived('beta');
  await beta.losePower();
  const ledger = guest.ledger();
  const operations = await readWriteLog(beta.logOf(fileNode('disk0')));
  const content = await contentAfter(survivors(operations));
  expectNothingLost(ledger, content);
  return { ledger, operations };
}

/** Moves the guest; its RAM takes its time where there is a limit. */
async function move(maxBandwidthBytesPerS = 0): Promise<void> {
  const alpha = hosts.host('alpha');
  const { migration } = await alpha.client.migrations.startMigration({
    domain: 'web',
    destinationHost: 'beta',
    maxBandwidthBytesPerS,
  });
  const ended = await watchToEnd(alpha, migration?.migrationId ?? '');
  expect(ended.failure).toBeUndefined();
  expect(ended.state).toBe('STATE_SUCCEEDED');
}

describe('with real QEMU, a power loss of the destination with a volatile cache', () => {
  it('at the moment at which it takes the guest over loses no write acknowledged on the source', async () => {
    const guest = await hosts.run('alpha', [{}], { memoryBytes: SLOW.memoryBytes });
    const log = join(folder, 'at-commit.writes');
    const image = join(folder, 'at-commit.raw');
    // The guest stands still on both hosts then, so a copy is what the power loss would find.
    beforeCommit = async () => {
      await copyFile(beta.logOf(fileNode('disk0')), log);
      await copyFile(join(hosts.host('beta').pool, guest.uuid, 'disk0.raw'), image);
    };
    await move(SLOW.maxBandwidthBytesPerS);
    const ledger = guest.ledger();
    const operations = await readWriteLog(log);
    expectNothingLost(ledger, await contentAfter(survivors(operations)));

    // The log is the whole truth: all of it together is what the image file held.
    await contentAfter(operations);
    const [replayed, found] = await Promise.all([readFile(replayedImage()), readFile(image)]);
    expect(replayed.equals(found)).toBe(true);

    // Nothing but the last flush saves what the guest wrote while its RAM was on its way.
    const lastWrite = operations.findLastIndex(({ data }) => data !== undefined);
    const unsaved = await contentAfter(survivors(operations.slice(0, lastWrite + 1)));
    expect(ledger.lostWrites(unsaved)).not.toEqual([]);
  });

  it('right after the migration has succeeded loses no acknowledged write', async () => {
    const guest = await hosts.run('alpha', [{}]);
    await move();
    await losePower(guest);
  });

  it('while the guest writes there loses no acknowledged write', async () => {
    const guest = await hosts.run('alpha', [{}]);
    await move();
    guest.arrived('beta');
    await guest.writes(50);
    const { ledger, operations } = await losePower(guest);

    // It is the guest's own flushes that save what it wrote there.
    const withoutFlushes = operations.map((operation) => ({ ...operation, flush: false }));
    expect(survivors(withoutFlushes)).toEqual([]);
    const half = operations.slice(0, operations.findLastIndex(({ flush }) => flush) - 20);
    expect(ledger.lostWrites(await contentAfter(survivors(half)))).not.toEqual([]);
  });
});
