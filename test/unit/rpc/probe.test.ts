import { EventEmitter } from 'node:events';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { explainSocketFailure } from '../../../src/rpc/probe.js';

const net = vi.hoisted(() => ({ connect: vi.fn() }));
vi.mock('node:net', async (original) => ({ ...(await original<object>()), ...net }));

/** A socket that cannot be connected; who may open one differs with the user that runs the tests. */
function failsWith(code: string): void {
  net.connect.mockImplementation(() => {
    const socket = Object.assign(new EventEmitter(), { destroy() {}, setTimeout() {} });
    queueMicrotask(() => socket.emit('error', Object.assign(new Error(code), { code })));
    return socket;
  });
}

afterEach(() => vi.restoreAllMocks());

describe('why the agent does not answer on its unix socket', () => {
  it.each(['EACCES', 'EPERM'])('is for %s that the caller may not open it', async (code) => {
    failsWith(code);
    expect(await explainSocketFailure('/run/drover.sock')).toMatchObject({
      reason: 'AGENT_UNREACHABLE',
      message: `The agent cannot be reached at /run/drover.sock: ${code}.`,
      hint: "Call as root (or the agent's user), or use --agent HOST:PORT with a certificate.",
    });
  });

  it('is for ENOENT whatever the reason says', async () => {
    failsWith('ENOENT');
    expect((await explainSocketFailure('/run/drover.sock')).hint).toBeUndefined();
  });
});
