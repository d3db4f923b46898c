import { appendFile, copyFile, readFile, rename, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Migration } from '../../src/migration/migration.js';
import { NO_RECORD } from '../../src/migration/peer.js';
import { connectAgent } from '../../src/rpc/client.js';
import type { TlsFiles } from '../../src/rpc/tls-material.js';
import { type Deferred, deferred } from '../../src/util/deferred.js';
import { CertificateStage, lists, place, TAKEN } from '../support/certificate-stage.js';
import type { CertificateFiles } from '../support/certificates.js';
import {
  type FakeAgent,
  fakeHeader,
  patiently,
  peersOf,
  startFakeAgent,
} from '../support/fake-agent.js';
import { fakeMigration } from '../support/fake-migration.js';

const DAY_MS = 24 * 60 * 60 * 1000;

let stage: CertificateStage;
beforeEach(async () => {
  stage = await CertificateStage.open();
});
afterEach(() => stage?.[Symbol.asyncDispose]());

describe('an agent whose certificate files change', () => {
  it('uses them for new connections, while a watch that is open goes on', async () => {
    const changes: Deferred<Migration>[] = [deferred(), deferred()];
    await using agent = await startFakeAgent(stage.keep(), {
      migrations: {
        list: () => [],
        watch: async function* () {
          for (const { promise } of changes) yield await promise;
        },
      },
    });
    const alice = await stage.old.operator('alice');
    using watcher = connectAgent({ address: agent.address, tls: alice });
    const events = watcher.migrations
      .watchMigration({ migrationId: fakeMigration().migrationId })
      [Symbol.asyncIterator]();
    changes[0]?.resolve(fakeMigration({ revision: 1 }));
    expect((await events.next()).value?.migration?.revision).toBe(1);
    expect(await lists(agent, await stage.next.operator('bob'))).toBe('TLS_PEER_REJECTED');

    await stage.swap(await stage.next.host('host-b'));
    await stage.logged(TAKEN);
    expect(stage.lines(TAKEN)[0]).toMatchObject({
      level: 'info',
      fields: { not_after: expect.stringMatching(/^\d{4}-.*Z$/) },
    });

    changes[1]?.resolve(fakeMigration({ revision: 2 }));
    expect((await events.next()).value?.migration?.revision).toBe(2);
    expect((await events.next()).done).toBe(true);
    expect(await lists(agent, await stage.next.operator('bob'))).toBe('let in');
    expect(await lists(agent, alice)).toBe('TLS_PEER_REJECTED');
    // Whoever has one of the old CA and trusts the new one does not get in either.
    const { ca } = await stage.next.operator('bob');
    expect(await lists(agent, { ...alice, ca })).toBe('TLS_PEER_REJECTED');
  });

  it('does not let a TLS session of before go on on a new connection', async () => {
    await using agent = await startFakeAgent(stage.keep(), { migrations: { list: () => [] } });
    const alice = await stage.old.operator('alice');
    const session = await sessionOf(agent, alice);
    expect(await handshake(agent, alice, session)).toBe('resumed');
    await stage.swap(await stage.next.host('host-b'));
    await stage.logged(TAKEN);
    const { ca } = await stage.next.operator('bob');
    expect(await handshake(agent, { ...alice, ca }, session)).toBe('refused');
  });

  it('notices it where a link leads elsewhere from one moment to the next', async () => {
    const root = join(stage.old.directory, 'mounted');
    await place(await stage.old.host('host-b'), join(root, 'one'));
    await place(await stage.next.host('host-b'), join(root, 'two'));
    await symlink('one', join(root, '..data'));
    stage.files = await linksThrough(root);
    await using agent = await startFakeAgent(stage.keep(), { migrations: { list: () => [] } });
    await symlink('two', join(root, '..data.new'));
    await rename(join(root, '..data.new'), join(root, '..data'));
    await stage.logged(TAKEN);
    expect(await lists(agent, await stage.next.operator('bob'))).toBe('let in');
  });

  it('reads them at once when it is told to, and says so where they are the same', async () => {
    const keeper = stage.keep({ pollMs: DAY_MS });
    keeper.reload();
    expect(stage.lines(/are the same/)).toHaveLength(1);
    await stage.swap(await stage.next.host('host-b'));
    keeper.reload();
    expect(stage.lines(TAKEN)).toHaveLength(1);
    expect(keeper.material.ca).toEqual(await readFile((await stage.next.host('host-b')).ca));
  });

  it('calls other agents with them, and lets a call that is under way end', async () => {
    const both = join(stage.old.directory, 'both.crt');
    await copyFile((await stage.old.host('host-a')).ca, both);
    await appendFile(both, await readFile((await stage.next.host('host-a')).ca));
    await appendFile(stage.files.ca, await readFile((await stage.next.host('host-a')).ca));
    const voted = deferred();
    const asked = deferred();
    const server = stage.keep();
    await using agent = await startFakeAgent(server, {
      peer: {
        queryMigration: async () => NO_RECORD,
        awaitLoaded: async () => {
          asked.resolve();
          await voted.promise;
          return { allocatedBytes: {}, journalId: 'j' };
        },
      },
    });
    const serverFiles = stage.files;
    stage.files = await place(
      { ...(await stage.old.host('host-a')), ca: both },
      join(stage.old.directory, 'a'),
    );
    const caller = stage.keep();
    using peers = peersOf('host-a', caller, { 'host-b': agent.address });
    const calls = peers.calls('host-b');
    const vote = calls.awaitLoaded(fakeHeader(), patiently());
    await asked.promise;

    await place({ ...(await stage.next.host('host-a')), ca: both }, join(stage.old.directory, 'a'));
    await stage.logged(TAKEN);
    // From now on the other agent takes nobody of the old CA any more.
    await copyFile((await stage.next.host('host-a')).ca, serverFiles.ca);
    await stage.logged(TAKEN, 2);
    await expect(calls.queryMigration(fakeHeader(), NO_RECORD, patiently())).resolves.toMatchObject(
      { record: 'NONE' },
    );
    voted.resolve();
    await expect(vote).resolves.toMatchObject({ journalId: 'j' });
  });
});

async function linksThrough(root: string): Promise<TlsFiles> {
  const link = async (name: string) => {
    const path = join(root, name);
    await symlink(join('..data', name), path);
    return path;
  };
  return {
    certificate: await link('tls.crt'),
    key: await link('tls.key'),
    ca: await link('ca.crt'),
  };
}

async function connect(agent: FakeAgent, tls: CertificateFiles, session?: Buffer) {
  const [ca, cert, key] = await Promise.all(
    [tls.ca, tls.certificate, tls.key].map((path) => readFile(path)),
  );
  return connectTls({
    host: '127.0.0.1',
    port: agent.server.port,
    servername: 'drover',
    ALPNProtocols: ['h2'],
    ...(ca ? { ca } : {}),
    ...(cert ? { cert } : {}),
    ...(key ? { key } : {}),
    ...(session ? { session } : {}),
  });
}

/** A session that TLS may go on with. */
async function sessionOf(agent: FakeAgent, tls: CertificateFiles): Promise<Buffer> {
  const socket = await connect(agent, tls);
  const session = deferred<Buffer>();
  socket.once('session', session.resolve);
  socket.on('error', session.reject);
  socket.resume();
  const ticket = await session.promise;
  socket.destroy();
  return ticket;
}

/** How a connection begins: `settings` and `resumed` when the server has begun to speak HTTP/2. */
async function handshake(
  agent: FakeAgent,
  tls: CertificateFiles,
  session: Buffer,
): Promise<'settings' | 'resumed' | 'refused'> {
  const socket = await connect(agent, tls, session);
  return await new Promise((resolve) => {
    const finish = (how: 'settings' | 'resumed' | 'refused') => {
      socket.destroy();
      resolve(how);
    };
    socket.on('data', () => finish(socket.isSessionReused() ? 'resumed' : 'settings'));
    socket.on('error', () => finish('refused'));
    socket.on('close', () => finish('refused'));
  });
}
