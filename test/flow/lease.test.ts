import { describe, expect, it, onTestFinished } from 'vitest';
import type { Transport } from '../../src/channel/types.js';
import type { PeerHandler, PeerHeader } from '../../src/migration/peer.js';
import { deferred } from '../../src/util/deferred.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { watchToEnd } from '../support/fleet.js';

const LEASE_MS = 500;

describe('the lease of an incoming migration', () => {
  it('ends where the source says that all goes well and does nothing, and the guest stays', async () => {
    const gate = { reached: deferred<void>(), go: deferred<void>() };
    onTestFinished(() => gate.go.resolve());
    await using fleet = await FakeFleet.start(['alpha', 'beta'], {
      config: (_host, config) => ({
        ...config,
        limits: { ...config.limits, leaseMs: LEASE_MS },
      }),
      parts: (host) => (host === 'beta' ? { handler: (handler) => held(handler, gate) } : {}),
    });
    const guest = await fleet.run('alpha', 'web');
    const { migration } = await fleet
      .host('alpha')
      .client.migrations.startMigration({ domain: 'web', destinationHost: 'beta' });
    const migrationId = migration?.migrationId ?? '';
    await gate.reached.promise;
    const beta = fleet.host('beta').client;
    await expect
      .poll(async () => (await beta.hosts.listAuditEvents({ action: 'LEASE_EXPIRED' })).events)
      .toMatchObject([{ caller: 'host/alpha', subject: migrationId, reason: 'STALLED' }]);
    await expect
      .poll(async () => (await beta.migrations.getMigration({ migrationId })).migration?.state)
      .toBe('STATE_FAILED');
    await fleet.expectNothingOn('beta', guest.uuid);
    gate.go.resolve();
    const ended = await watchToEnd(fleet.host('alpha'), migrationId);
    expect(ended).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
    await fleet.writes(guest, 2);
  });
});

/** A destination that never hears what its source asks for after it was prepared. */
function held(
  handler: PeerHandler,
  gate: {
    readonly reached: { resolve(): void };
    readonly go: { readonly promise: Promise<void> };
  },
): PeerHandler {
  return new Proxy(handler, {
    get(target, name: keyof PeerHandler) {
      if (name !== 'exportDisks') return target[name].bind(target);
      return async (header: PeerHeader, transport: Transport) => {
        gate.reached.resolve();
        await gate.go.promise;
        return await target.exportDisks(header, transport);
      };
    },
  });
}
