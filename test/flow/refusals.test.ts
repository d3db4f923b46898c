import { afterEach, describe, expect, it } from 'vitest';
import type { Binary } from '../../src/process/binary.js';
import { versionProblems } from '../../src/process/known-bad.js';
import { makeTestCertificates } from '../support/certificates.js';
import { FakeFleet, specOf } from '../support/fake-fleet.js';
import { fakeBinary } from '../support/fake-qemu.js';
import { migrate } from '../support/fleet.js';

const MIB = 1024 ** 2;

let hosts: FakeFleet;
afterEach(() => hosts[Symbol.asyncDispose]());

/** A QEMU of some version, with what is known to be wrong with it. */
function qemuOf(major: number, minor: number): Binary {
  const version = { major, minor, micro: 0 };
  const { facts, ...rest } = fakeBinary();
  return {
    ...rest,
    facts: facts && { ...facts, version },
    problems: versionProblems(version),
  };
}

/** Moves a running domain to beta, which must refuse with the guest left alone. */
async function refused(changes: object = {}) {
  const source = await hosts.run('alpha', 'web', changes);
  const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
  expect(failed).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
  await hosts.expectNothingOn('beta', source.uuid);
  await hosts.writes(source, 3);
  expect(failed.failure?.hint).not.toBe('');
  return failed.failure;
}

describe('a destination refuses before anything moves', () => {
  it('when its QEMU is below the floor', async () => {
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      parts: (host) => (host === 'beta' ? { binary: qemuOf(8, 2) } : {}),
    });
    expect(await refused()).toMatchObject({ reason: 'QEMU_TOO_OLD', side: 'SIDE_DESTINATION' });
  });

  it('when its QEMU is known to damage guests', async () => {
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      parts: (host) => (host === 'beta' ? { binary: qemuOf(7, 2) } : {}),
    });
    const failure = await refused();
    expect(['QEMU_KNOWN_BAD', 'QEMU_TOO_OLD']).toContain(failure?.reason);
    expect(failure?.message).toContain('loses writes to guest memory');
  });

  it('when it has not enough memory, and says how much is missing', async () => {
    const memory = { totalBytes: 1024 * MIB, availableBytes: 80 * MIB };
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      system: (host) => (host === 'beta' ? { memory: async () => memory } : {}),
    });
    const failure = await refused({ memoryBytes: 512 * MIB });
    expect(failure).toMatchObject({ reason: 'NO_MEMORY', side: 'SIDE_DESTINATION' });
    expect(Number(failure?.metadata['required_bytes'])).toBeGreaterThanOrEqual(512 * MIB);
  });

  it('when it does not know the machine type', async () => {
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      parts: (host) => {
        const binary = fakeBinary();
        const machines = binary.facts?.machines.filter(({ name }) => name.startsWith('pc-i440fx'));
        if (host !== 'beta' || !binary.facts || !machines) return {};
        return { binary: { ...binary, facts: { ...binary.facts, machines } } };
      },
    });
    expect(await refused()).toMatchObject({ reason: 'MACHINE_TYPE_UNKNOWN' });
  });

  it('when another domain of that name lives there', async () => {
    hosts = await FakeFleet.start(['alpha', 'beta']);
    await hosts.host('beta').client.domains.createDomain({ spec: specOf('web') });
    expect(await refused()).toMatchObject({ reason: 'DOMAIN_EXISTS', side: 'SIDE_DESTINATION' });
  });

  it('when a kernel is missing there', async () => {
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      kernels: [],
      config: (host, config) =>
        host === 'beta'
          ? config
          : {
              ...config,
              kernels: [
                { name: 'linux', kernel: '/proc/version', initrd: undefined, arguments: '' },
              ],
            },
    });
    expect(await refused({ kernel: 'linux' })).toMatchObject({ reason: 'MEDIA_MISSING' });
  });
});

describe('a peer that shows the wrong certificate', () => {
  it('of another CA is not spoken to', async () => {
    await using other = await makeTestCertificates();
    const tls = await other.host('beta');
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      config: (host, config) => (host === 'beta' ? { ...config, tls } : config),
    });
    const source = await hosts.run('alpha', 'web');
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure?.reason).toBe('TLS_PEER_REJECTED');
    await hosts.writes(source, 3);
  });

  it('of another host of the same CA is not spoken to', async () => {
    hosts = await FakeFleet.start(['alpha', 'beta', 'gamma'], {
      config: (host, config) => {
        if (host !== 'alpha') return config;
        const gamma = config.peers.find(({ name }) => name === 'gamma');
        const peers = config.peers.map((peer) =>
          peer.name === 'beta' ? { ...peer, address: gamma?.address ?? '' } : peer,
        );
        return { ...config, peers };
      },
    });
    const source = await hosts.run('alpha', 'web');
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure).toMatchObject({ reason: 'TLS_PEER_REJECTED', side: 'SIDE_SOURCE' });
    await hosts.writes(source, 3);
  });

  it('to the destination that calls its source back is not spoken to by the destination', async () => {
    hosts = await FakeFleet.start(['alpha', 'beta', 'gamma'], {
      config: (host, config) => {
        if (host !== 'beta') return config;
        const gamma = config.peers.find(({ name }) => name === 'gamma');
        const peers = config.peers.map((peer) =>
          peer.name === 'alpha' ? { ...peer, address: gamma?.address ?? '' } : peer,
        );
        return { ...config, peers };
      },
    });
    expect(await refused()).toMatchObject({
      reason: 'TLS_PEER_REJECTED',
      side: 'SIDE_DESTINATION',
      message: expect.stringContaining('is that of gamma, not of alpha'),
    });
  });
});

describe('creating a domain', () => {
  it('is refused with everything that is wrong with its spec at once', async () => {
    hosts = await FakeFleet.start(['alpha']);
    const spec = { ...specOf('web'), accelerator: '', memoryBytes: 1, vcpus: 999 };
    const failure = await hosts
      .host('alpha')
      .client.domains.createDomain({ spec })
      .catch((error: unknown) => error);
    expect(failure).toMatchObject({ reason: 'SPEC_INVALID' });
    const { violations } = failure as { violations: readonly { subject: string }[] };
    const subjects = new Set(violations.map(({ subject }) => subject));
    expect([...subjects].sort()).toEqual(['accelerator', 'memoryBytes', 'vcpus']);
  });
});
