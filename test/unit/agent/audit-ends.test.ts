import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { Audit } from '../../../src/agent/audit.js';
import { recordEnds } from '../../../src/agent/audit-ends.js';
import { MigrationError, toFailure } from '../../../src/migration/errors.js';
import { MigrationRegistry } from '../../../src/migration/registry.js';
import { Tracker } from '../../../src/migration/tracker.js';
import { systemClock } from '../../../src/util/clock.js';
import { memoryLog } from '../../support/fake-agent.js';

it('an agent that did not come to write an end into its journal records it once all the same', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'drover-ends-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const migrationId = randomUUID();
  const failure = toFailure(new MigrationError('DEST_QEMU_DIED', 'It died.'), undefined, undefined);
  const began = new Date(Date.now() - 60_000);
  const live = async (createTime: Date) => {
    const tools = { folder, fileBytes: 1024 ** 2, self: 'host/alpha', log: memoryLog() };
    const audit = new Audit(tools);
    await audit.load();
    const registry = new MigrationRegistry();
    recordEnds(registry, audit, 'alpha');
    const seed = { migrationId, domainUuid: randomUUID(), domainName: 'web' };
    const hosts = { sourceHost: 'alpha', destinationHost: 'beta' };
    const tracker = new Tracker({ ...seed, ...hosts }, systemClock, { createTime });
    registry.add(tracker);
    tracker.end({ state: 'FAILED', runningOn: 'SOURCE', failure });
    const query = { caller: '', action: '', decision: undefined, since: undefined } as const;
    const events = audit.list({ ...query, subject: migrationId, before: undefined }, 9);
    await audit.close();
    return events;
  };
  const event = {
    caller: 'host/alpha',
    action: 'MIGRATION_ENDED',
    decision: 'EVENT',
    reason: 'DEST_QEMU_DIED',
    message: 'web alpha -> beta: FAILED: It died.',
  };
  expect(await live(began)).toMatchObject([event]);
  expect(await live(began)).toHaveLength(1);
  // Another one of the same id, which is free again when the first is forgotten.
  expect(await live(new Date(Date.now() + 1_000))).toHaveLength(2);
});
