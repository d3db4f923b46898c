import { afterAll, afterEach, expect, it } from 'vitest';
import { fakeHeader, peersOf } from '../support/fake-agent.js';
import { attempts, Tally } from '../support/hostile.js';
import { InDoubt } from '../support/in-doubt.js';

/* A handover is cut off, both agents start again, and a third host tries to have a say. */

const tally = new Tally('a stranger, after a cut');
afterAll(() => tally.finish());

let stage: InDoubt | undefined;
afterEach(() => stage?.[Symbol.asyncDispose]());

it('a host that takes no part is denied all of what agents have found again after a cut', async () => {
  stage = await InDoubt.open();
  const { hosts, migrationId, domainUuid } = stage;
  const tls = await hosts.fleet.certificates.host('gamma');
  const tryAt = async (host: 'alpha' | 'beta') => {
    const { address } = hosts.host(host).config.listen;
    using peers = peersOf('gamma', tls, { [host]: address });
    const other = host === 'alpha' ? 'beta' : 'alpha';
    const known = fakeHeader({ migrationId, domainUuid, epoch: 1_000 });
    const claims = [
      { ...known, sourceHost: 'alpha', destinationHost: 'beta' },
      { ...known, sourceHost: 'gamma', destinationHost: host },
      { ...known, sourceHost: host, destinationHost: 'gamma' },
      { ...known, sourceHost: 'gamma', destinationHost: other },
    ];
    for (const header of claims) {
      for (const [name, call] of attempts(peers.calls(host), header, LAUNCH_SPEC)) {
        const what = `${name} at ${host} as ${header.sourceHost} to ${header.destinationHost}`;
        const reason = await tally.refused(what, call);
        // This launch spec is not even looked at by whom it is meant for.
        if (name === 'prepare') expect(reason, what).toMatch(/^(PERMISSION_DENIED|.*INVALID)$/);
        else expect(reason, what).toBe('PERMISSION_DENIED');
      }
    }
  };
  for (const host of ['alpha', 'beta'] as const) await hosts.host(host).stop();
  // Neither hears of the other one: what each has is what its own journal says.
  stage.heal();
  await hosts.host('alpha').start();
  await tryAt('alpha');
  await hosts.host('alpha').stop();
  await hosts.host('beta').start();
  await tryAt('beta');
  await hosts.host('alpha').start();
  await stage.recorded('alpha', 'source', 'DONE');
  await stage.recorded('beta', 'destination', 'SOURCE_GONE');
  for (const host of ['alpha', 'beta'] as const) await tryAt(host);
  expect(stage.source.alive).toBe(false);
  await hosts.writes(stage.destination, 3);
});

/** Nobody comes to look at it. */
const LAUNCH_SPEC = {
  spec: {
    name: 'web',
    uuid: '0b0f9f0e-6a3f-4a4a-8a5e-2f5a5f0d7c22',
    memoryBytes: 1024 ** 2 * 64,
    vcpus: 1,
    disks: [],
    nics: [],
  },
  cpuModel: 'qemu64',
  cpuFeatures: {},
  cpuProperties: {},
  pciSlots: {},
  kernelSha256: '',
  qemuVersion: '10.0.2',
  disks: [],
} as never;
