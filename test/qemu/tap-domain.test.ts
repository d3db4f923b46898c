import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findOnPath } from '../../src/process/binary.js';
import { migrate } from '../support/fleet.js';
import { RealFleet } from '../support/real-fleet.js';

/*
 * Taps belong to the host's network, and only where everybody may open /dev/net/tun can a QEMU that
 * runs as a user of its own have one. Where the device is closed, a namespace with a device of its
 * own will do:
 *
 * unshare -m -n sh -c 'mount -t sysfs sysfs /sys && ip link set lo up &&
 *   mknod -m 666 /tmp/tun c 10 200 && mount --bind /tmp/tun /dev/net/tun &&
 *   npx vitest run test/qemu/tap-domain.test.ts'
 */

const BRIDGE = `dvbr${process.pid}`;

const program = await findOnPath('ip');
const ip = (...argv: string[]) => execFileSync(program ?? '', argv, { encoding: 'utf8' });

const isOpen = () => (statSync('/dev/net/tun').mode & 0o006) === 0o006;
const possible = process.getuid?.() === 0 && program !== undefined && isOpen();

/** The taps in the bridge, with their owners. */
function taps(): { readonly name: string; readonly owner: number }[] {
  const links = JSON.parse(ip('-json', 'link', 'show', 'master', BRIDGE) || '[]');
  return (links as { ifname: string }[]).map(({ ifname: name }) => ({
    name,
    owner: Number(readFileSync(`/sys/class/net/${name}/owner`, 'latin1')),
  }));
}

describe.skipIf(!possible)('with real QEMU, a domain with a tap', () => {
  let hosts: RealFleet;
  beforeAll(() => void ip('link', 'add', BRIDGE, 'type', 'bridge'));
  afterAll(() => void ip('link', 'del', BRIDGE));
  afterEach(() => hosts[Symbol.asyncDispose]());

  it('moves, and its QEMU has a tap that only its own user can open, until it has left', async () => {
    hosts = await RealFleet.start(['alpha', 'beta'], {
      config: (host, config) => ({
        ...config,
        networks: { bridges: [BRIDGE], user: false },
        qemu: {
          uids:
            host === 'alpha'
              ? { first: 410_000, last: 410_099 }
              : { first: 420_000, last: 420_099 },
        },
      }),
    });
    const guest = await hosts.run('alpha', [{}], {
      nics: [{ id: 'lan', type: 'tap', bridge: BRIDGE }],
    });
    const [before] = taps();
    expect(taps().map(({ owner }) => owner)).toEqual([410_000]);
    const { failure } = await migrate(hosts.host('alpha'), guest.uuid, 'beta');
    expect(failure).toBeUndefined();
    guest.arrived('beta');
    expect(taps().map(({ owner }) => owner)).toEqual([420_000]);
    expect(taps()[0]?.name).not.toBe(before?.name);
    await guest.writes(30);
    await guest.judge();
    expect(taps()).toEqual([]);
  });
});
