import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { probePort } from '../../../src/channel/data-probe.js';
import { makeTicket, openPort, openProbe } from '../../../src/domain/data-ports.js';
import { freePorts } from '../../support/free-ports.js';

const { signal } = new AbortController();
const address = '127.0.0.1';

async function onePort() {
  const [port = 0] = await freePorts(1);
  return { address, ports: [port, port] as const };
}

describe('a port of the data range', () => {
  it('is given to who can use it; what fails for another reason is told', async () => {
    const data = await onePort();
    expect(await openPort(data, async (port) => `used ${port}`)).toEqual({
      port: data.ports[0],
      result: `used ${data.ports[0]}`,
    });
    const failing = openPort(data, async () => {
      throw new Error('No QEMU.');
    });
    await expect(failing).rejects.toThrow('No QEMU.');
  });

  it('is refused where there is none', async () => {
    const data = await onePort();
    await openProbe(data);
    await expect(openProbe(data)).rejects.toMatchObject({ reason: 'NO_PORT' });
    const elsewhere = { ...data, address: '192.0.2.1' };
    await expect(openProbe(elsewhere)).rejects.toMatchObject({ reason: 'NO_PORT' });
  });

  it('proves by its nonce that the right host was reached, once', async () => {
    const data = await onePort();
    const probe = await openProbe(data);
    expect(await probePort(probe, { signal })).toMatchObject({ reached: true });
    const again = await new Promise((resolve) => {
      connect(probe.port, address).once('error', resolve);
    });
    expect(again).toMatchObject({ code: 'ECONNREFUSED' });
  });

  it('has tickets that are different each time', () => {
    expect(makeTicket()).toMatch(/^[\w-]{43}$/);
    expect(makeTicket()).not.toBe(makeTicket());
  });
});
