import { copyFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Transport } from '../../src/channel/types.js';
import { Migration_State } from '../../src/gen/drover/v1/migration.js';
import type { PeerHandler, PeerHeader } from '../../src/migration/peer.js';
import { connectAgent } from '../../src/rpc/client.js';
import { deferred } from '../../src/util/deferred.js';
import { TAKEN } from '../support/certificate-stage.js';
import { makeTestCertificates, type TestCertificates } from '../support/certificates.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { watchToEnd } from '../support/fleet.js';

let next: TestCertificates;
beforeEach(async () => {
  next = await makeTestCertificates();
});
afterEach(() => next?.[Symbol.asyncDispose]());

describe('a migration while the certificates of both hosts change', () => {
  it('goes on, and the next one uses the new ones', async () => {
    const gate = { reached: deferred(), go: deferred() };
    const hold = (handler: PeerHandler): PeerHandler =>
      new Proxy(handler, {
        get(target, name: keyof PeerHandler) {
          if (name !== 'exportDisks') return target[name].bind(target);
          return async (header: PeerHeader, transport: Transport) => {
            gate.reached.resolve();
            await gate.go.promise;
            return await target.exportDisks(header, transport);
          };
        },
      });
    const names = ['host-a', 'host-b'];
    await using fleet = await FakeFleet.start(names, {
      parts: (host) => (host === 'host-b' ? { handler: hold } : {}),
    });
    const alice = await fleet.fleet.certificates.operator('alice');
    const bob = await next.operator('bob');
    const [source, destination] = names.map((name) => fleet.host(name));
    if (!source || !destination) throw new Error('There must be two hosts.');
    await fleet.run('host-a', 'web');
    const { migration } = await source.client.migrations.startMigration({
      domain: 'web',
      destinationHost: 'host-b',
    });
    const ended = watchToEnd(source, migration?.migrationId ?? '');
    await gate.reached.promise;

    for (const host of [source, destination]) {
      const made = await next.host(host.name);
      for (const what of ['certificate', 'key', 'ca'] as const) {
        await copyFile(made[what], host.config.tls[what]);
      }
      host.reloadCertificates();
      expect(host.log.filter((line) => TAKEN.test(line))).toHaveLength(1);
    }
    gate.go.resolve();
    expect(await ended).toMatchObject({ state: Migration_State.SUCCEEDED });

    using late = connectAgent({ address: source.config.listen.address, tls: alice });
    await expect(late.hosts.getHost({})).rejects.toMatchObject({ reason: 'TLS_PEER_REJECTED' });
    using client = connectAgent({ address: destination.config.listen.address, tls: bob });
    const back = await client.migrations.startMigration({
      domain: 'web',
      destinationHost: 'host-a',
    });
    const moved = await watchToEnd({ client }, back.migration?.migrationId ?? '');
    expect(moved.state).toBe(Migration_State.SUCCEEDED);
  });
});
