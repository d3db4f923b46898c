import { connect } from 'node:net';
import { deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';

/** How long a port may take to answer, in milliseconds. */
export const PROBE_LIMIT_MS = 2_000;

/** A port that gives a nonce to whoever connects. */
export interface ProbedPort {
  readonly address: string;
  readonly port: number;
  readonly nonce: string;
}

/** What came of trying a port. */
export type ProbeResult =
  | { readonly reached: true; readonly roundTripMs: number }
  | { readonly reached: false; readonly why: string };

/**
 * Tries whether a port can be reached, and whether it is the right host that answers there: private
 * addresses are not unique. Takes at most two seconds; rejects only with the signal's reason.
 */
export async function probePort(
  { address, port, nonce }: ProbedPort,
  options: { readonly signal: AbortSignal },
): Promise<ProbeResult> {
  const silent = () => new Error(`did not answer within ${PROBE_LIMIT_MS} ms`);
  using limit = withTimeout(options.signal, PROBE_LIMIT_MS, silent);
  const connected = deferred();
  const ended = deferred<string>();
  const startedMs = performance.now();
  const socket = connect({ host: address, port, noDelay: true }, connected.resolve);
  let said = '';
  socket.setEncoding('latin1');
  socket.on('data', (text: string) => {
    said = (said + text).slice(0, nonce.length + 1);
  });
  socket.on('error', (error) => {
    connected.reject(error);
    ended.reject(error);
  });
  socket.on('end', () => ended.resolve(said));
  ended.promise.catch(() => undefined);
  try {
    await untilAborted(connected.promise, limit.signal);
    const roundTripMs = performance.now() - startedMs;
    const heard = await untilAborted(ended.promise, limit.signal);
    if (heard === nonce) return { reached: true, roundTripMs };
    return { reached: false, why: 'is answered by somebody else' };
  } catch (error) {
    options.signal.throwIfAborted();
    const { code, message } = error as NodeJS.ErrnoException;
    return { reached: false, why: code === undefined ? message : `cannot be reached (${code})` };
  } finally {
    socket.destroy();
  }
}
