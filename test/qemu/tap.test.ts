import { execFile } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findOnPath } from '../../src/process/binary.js';
import { createTap, deleteTap } from '../../src/process/tap.js';

const ip = async (...argv: string[]) => (await promisify(execFile)('ip', argv)).stdout;

/** Names of this process alone, so that two runs on one host do not meet. */
const BRIDGE = `dvbr${process.pid}`;
const TAP = `dvtap${process.pid}`;

// Network interfaces belong to the host, only root may make them, and a bare system has no `ip`.
const possible = process.getuid?.() === 0 && (await findOnPath('ip')) !== undefined;

describe.skipIf(!possible)('a tap', () => {
  beforeEach(() => ip('link', 'add', BRIDGE, 'type', 'bridge'));
  afterEach(async () => {
    await deleteTap(TAP);
    await ip('link', 'del', BRIDGE);
  });

  test('is made, switched on and put into its bridge, and removed again', async () => {
    await createTap({ name: TAP, bridge: BRIDGE });
    const [link] = JSON.parse(await ip('-json', 'link', 'show', 'dev', TAP));
    expect(link).toMatchObject({ ifname: TAP, master: BRIDGE });
    expect(link.flags).toContain('UP');
    await deleteTap(TAP);
    await deleteTap(TAP);
    await expect(ip('link', 'show', 'dev', TAP)).rejects.toThrow();
  });

  test('belongs to the user that it is for, who can open it if anybody can', async () => {
    const made = createTap({ name: TAP, bridge: BRIDGE, owner: 400_007 });
    const { mode } = statSync('/dev/net/tun');
    if ((mode & 0o006) === 0o006) {
      await made;
      expect(readFileSync(`/sys/class/net/${TAP}/owner`, 'latin1').trim()).toBe('400007');
    } else {
      await expect(made).rejects.toMatchObject({
        problem: 'NOT_PERMITTED',
        message: expect.stringContaining('chmod 0666 /dev/net/tun'),
      });
    }
  });

  test.each(['dvbr-absent', 'lo'])('is not made without a bridge: %s', async (bridge) => {
    await expect(createTap({ name: TAP, bridge })).rejects.toMatchObject({
      name: 'TapError',
      problem: 'BRIDGE_MISSING',
    });
  });

  test('of somebody else is left alone', async () => {
    await createTap({ name: TAP, bridge: BRIDGE });
    await expect(createTap({ name: TAP, bridge: BRIDGE })).rejects.toMatchObject({
      name: 'ProcessError',
    });
    expect(await ip('link', 'show', 'dev', TAP)).toContain(`master ${BRIDGE}`);
  });
});
