import { randomBytes } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { DiskServerAddress, RamServerAddress } from '../../src/domain/launch-spec.js';
import { DomainSpec } from '../../src/gen/drover/v1/domain.js';
import type { PeerHandler } from '../../src/migration/peer.js';
import { parseAddress } from '../../src/util/address.js';
import { deferred } from '../../src/util/deferred.js';
import { watchToEnd } from '../support/fleet.js';
import { wrapped } from '../support/hostile.js';
import {
  isNbdAck,
  isNbdRefusal,
  isTlsRefusal,
  listeningPorts,
  NBD_GREETING,
  NBD_OPTIONS,
  nbdExport,
  nbdInTls,
  nbdOption,
  nbdReplies,
  OPENINGS,
  openPorts,
  say,
  sayInTls,
} from '../support/port-scan.js';
import { RealFleet } from '../support/real-fleet.js';

/** Addresses of loopback that nothing else listens on, one for each host. */
const ADDRESSES: Readonly<Record<string, string>> = { alpha: '127.77.0.1', beta: '127.77.0.2' };
/** OpenSSL takes a key without a hash of its own for one of SHA-256. */
const PSK_CIPHERS = 'TLS_AES_128_GCM_SHA256';

let hosts: RealFleet;
afterEach(() => hosts[Symbol.asyncDispose]());

/** Each host on an address of its own. */
async function startOnOwnAddresses(handler: (handler: PeerHandler) => PeerHandler) {
  const own = (host: string, address: string) => `${ADDRESSES[host]}:${parseAddress(address).port}`;
  return await RealFleet.start(['alpha', 'beta'], {
    parts: (host) => (host === 'beta' ? { handler } : {}),
    config: (host, config) => ({
      ...config,
      listen: { ...config.listen, address: own(host, config.listen.address) },
      data: { ...config.data, address: ADDRESSES[host] ?? '' },
      // Both domains shall wait for their RAM at once.
      link: { ...config.link, ramPhases: 2 },
      peers: config.peers.map(({ name, address }) => ({ name, address: own(name, address) })),
    }),
  });
}

describe('with real QEMU, a scan of all ports of both hosts in the middle of a migration', () => {
  it('finds nothing that takes a command or gives a byte of data without credentials', async () => {
    const before = await listeningPorts();
    const arrived = { first: deferred(), second: deferred() };
    const scanned = deferred();
    const servers: DiskServerAddress[] = [];
    const doors: RamServerAddress[] = [];
    // The moment at which everything is open: disks are mirrored, and RAM may come.
    hosts = await startOnOwnAddresses((handler) =>
      wrapped(handler, {
        exportDisks: async (...args) => {
          const server = await handler.exportDisks(...args);
          servers.push(server);
          return server;
        },
        acceptRam: async (header, transport) => {
          const accepted = await handler.acceptRam(header, transport);
          doors.push(accepted);
          if (header.domainUuid === guest.uuid) arrived.first.resolve();
          else arrived.second.resolve();
          await scanned.promise;
          return accepted;
        },
      }),
    );
    const guest = await hosts.run('alpha', [{}]);
    const { client } = hosts.host('alpha');
    await startAnother();
    const migrations = ['web', 'another'].map(async (domain) => {
      const request = { domain, destinationHost: 'beta' };
      return (await client.migrations.startMigration(request)).migration?.migrationId ?? '';
    });
    await Promise.all([arrived.first.promise, arrived.second.promise]);

    const agentPort = (host: string) => parseAddress(hosts.host(host).config.listen.address).port;
    const mine = async (host: string) =>
      (await openPorts(ADDRESSES[host] ?? '')).filter((port) => !before.has(port));
    const found = { alpha: await mine('alpha'), beta: await mine('beta') };
    expect(found.alpha).toEqual([agentPort('alpha')]);
    const open = [agentPort('beta'), ...[...servers, ...doors].map(({ port }) => port)];
    expect(found.beta).toEqual(open.sort((a, b) => a - b));

    await Promise.all(
      ['alpha', 'beta'].map(async (host) => {
        await expectNothingOfAgent(ADDRESSES[host] ?? '', agentPort(host));
        await expectPrivateSockets(hosts.host(host).config.directories.run);
      }),
    );
    const [one, other] = servers;
    if (!one || !other) throw new Error('There are no two disk servers.');
    // Both at once: an agent waits half a minute for the answer that is held back here.
    await Promise.all([
      expectNothingOfDiskServer(one, other),
      expectNothingOfDiskServer(other, one),
    ]);

    scanned.resolve();
    for (const id of migrations) {
      const ended = await watchToEnd(hosts.host('alpha'), await id);
      expect(ended.failure).toBeUndefined();
    }
    guest.arrived('beta');
    await guest.judge();
  });
});

/** A second guest on alpha, whose migration has a key of its own. */
async function startAnother(): Promise<void> {
  const spec = DomainSpec.fromPartial({
    name: 'another',
    memoryBytes: 32 * 1024 ** 2,
    accelerator: 'tcg',
    disks: [{ id: 'disk0', image: 'boot.raw' }],
  });
  const { client } = hosts.host('alpha');
  await client.domains.createDomain({ spec });
  await client.domains.startDomain({ domain: 'another' });
}

async function expectNothingOfAgent(host: string, port: number): Promise<void> {
  const tries = Object.entries(OPENINGS).map(async ([opening, words]) => {
    const answer = await say(host, port, words);
    expect(isTlsRefusal(answer), `${opening}: ${answer.toString('latin1')}`).toBe(true);
    // With TLS, and without a certificate.
    const inTls = await sayInTls({ host, port, ALPNProtocols: ['h2'] }, words);
    expect(inTls.toString('latin1'), opening).toBe('');
  });
  await Promise.all(tries);
}

/** `other` is the disk server of another migration to the same host. */
async function expectNothingOfDiskServer(
  server: DiskServerAddress,
  other: DiskServerAddress,
): Promise<void> {
  const { address: host, port } = server;
  for (const [opening, words] of Object.entries(OPENINGS)) {
    const answer = await say(host, port, words, { greets: true });
    expect(answer.subarray(0, NBD_GREETING.length), opening).toEqual(NBD_GREETING);
    // The rest, if any, refuses what was understood as an option.
    expect(nbdReplies(answer).every(isNbdRefusal), opening).toBe(true);
  }
  const name = server.exports[0]?.exportName ?? '';
  for (const [option, data] of [
    [NBD_OPTIONS.list, Buffer.alloc(0)],
    [NBD_OPTIONS.info, nbdExport(name)],
    [NBD_OPTIONS.go, nbdExport(name)],
    [NBD_OPTIONS.exportName, Buffer.from(name)],
  ] as const) {
    const replies = nbdReplies(await say(host, port, nbdOption(option, data), { greets: true }));
    expect(replies.every(isNbdRefusal), `option ${option}`).toBe(true);
  }
  expect(
    nbdReplies(await say(host, port, nbdOption(NBD_OPTIONS.startTls), { greets: true })).every(
      isNbdAck,
    ),
  ).toBe(true);

  const list = nbdOption(NBD_OPTIONS.list).subarray(4);
  const psk = (identity: string, key: Uint8Array) => ({
    ciphers: PSK_CIPHERS,
    minVersion: 'TLSv1.3' as const,
    pskCallback: () => ({ psk: key, identity }),
    checkServerIdentity: () => undefined,
  });
  const wrongKey = await nbdInTls(host, port, psk(server.pskIdentity, randomBytes(32)), list);
  expect(wrongKey.heard.length).toBe(0);
  expect(wrongKey.failure).not.toBe('silent');
  const wrongName = await nbdInTls(host, port, psk('somebody', server.psk), list);
  expect(wrongName.heard.length).toBe(0);
  // Another migration's key opens nothing here, by whichever name.
  expect(Buffer.from(other.psk).equals(Buffer.from(server.psk))).toBe(false);
  for (const identity of new Set([server.pskIdentity, other.pskIdentity])) {
    const otherKey = await nbdInTls(host, port, psk(identity, other.psk), list);
    expect(otherKey.heard.length, identity).toBe(0);
    expect(otherKey.failure).not.toBe('silent');
  }
  const noKey = await nbdInTls(host, port, {}, list);
  expect(noKey.heard.length).toBe(0);
  // The same client with the key is answered, so the ones above were refused for the want of it.
  const rightKey = await nbdInTls(host, port, psk(server.pskIdentity, server.psk), list);
  expect(rightKey.heard.length).toBeGreaterThan(0);
}

/** Sockets of QEMU lie in folders that only their owner may enter. */
async function expectPrivateSockets(run: string): Promise<void> {
  for (const folder of await readdir(run)) {
    const { mode } = await stat(join(run, folder));
    expect(mode & 0o777, folder).toBe(0o700);
  }
}
