import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { FrameReader } from '../channel/frames.js';
import { said } from '../channel/socket-join.js';
import type { StreamPlace } from '../channel/types.js';
import { formatAddress } from '../util/address.js';
import { type Deferred, deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { RpcError } from './errors.js';
import { TLS_NAME } from './identity.js';
import { TICKET_LIMIT_MS } from './limits.js';
import { type DialledAgent, nameOf, tlsProblem } from './probe.js';
import { checkAgent, contextOptions, type TlsMaterial } from './tls-material.js';

/** What both ends of a stream say that they speak. */
export const STREAM_PROTOCOL = 'drover-stream';

/**
 * Connects to another agent's data door and shows the ticket. Nothing but frames comes from the
 * answer, and the first of them that are not of the door itself.
 *
 * @throws ReasonedError `PEER_UNREACHABLE`, `TLS_PEER_REJECTED`, what the door refused with, or the
 *   signal's reason
 */
export async function dialDoor(
  place: StreamPlace,
  material: TlsMaterial,
  options: { readonly signal: AbortSignal },
): Promise<TLSSocket> {
  const agent: DialledAgent = {
    address: formatAddress({ host: place.address, port: place.port }),
    material,
    expected: { trustDomain: material.identity.trustDomain, host: place.host },
    unreachable: 'PEER_UNREACHABLE',
  };
  const silent = () => says(agent, `did not answer within ${TICKET_LIMIT_MS} ms`);
  using limit = withTimeout(options.signal, TICKET_LIMIT_MS, silent);
  const tcp = connectTcp({ host: place.address, port: place.port, noDelay: true, keepAlive: true });
  const dial = new Dial(agent, tcp, place.ticket);
  try {
    return await untilAborted(dial.ready.promise, limit.signal);
  } catch (error) {
    dial.destroy();
    throw error;
  }
}

/** One connection on its way. */
class Dial {
  readonly ready: Deferred<TLSSocket> = deferred();
  readonly #agent: DialledAgent;
  readonly #tcp: Socket;
  readonly #ticket: string;
  #secure: TLSSocket | undefined;
  #handshaken = false;
  readonly #onError = (error: NodeJS.ErrnoException) => this.#fail(error);
  readonly #onClose = () => this.#fail();

  constructor(agent: DialledAgent, tcp: Socket, ticket: string) {
    this.#agent = agent;
    this.#tcp = tcp;
    this.#ticket = ticket;
    this.ready.promise.catch(() => undefined);
    tcp.on('error', this.#onError);
    // Only then, because a TLS socket hides why the socket beneath it could not connect.
    tcp.once('connect', () => this.#handshake());
  }

  destroy(): void {
    this.#secure?.destroy();
    this.#tcp.destroy();
  }

  #handshake(): void {
    const secure = connectTls({
      socket: this.#tcp,
      servername: TLS_NAME,
      ALPNProtocols: [STREAM_PROTOCOL],
      checkServerIdentity: checkAgent(this.#agent.expected),
      rejectUnauthorized: true,
      ...contextOptions(this.#agent.material),
    });
    this.#secure = secure;
    secure.on('error', this.#onError);
    secure.once('close', this.#onClose);
    secure.once('secureConnect', () => {
      this.#handshaken = true;
      secure.write(`${this.#ticket}\n`);
      this.#awaitReady(secure);
    });
  }

  #awaitReady(secure: TLSSocket): void {
    let isReady = false;
    const wrong = () => this.ready.reject(says(this.#agent, 'did not answer as a data door does'));
    const reader = new FrameReader({
      data: wrong,
      end: wrong,
      invalid: wrong,
      broken: (text) => this.ready.reject(said(text)),
      ready: () => {
        isReady = true;
      },
    });
    const onData = (bytes: Buffer) => {
      // Byte by byte, because what comes after the answer is for another reader.
      for (let at = 0; at < bytes.length; at++) {
        reader.read(bytes, at, at + 1);
        if (!isReady) continue;
        secure.pause();
        secure.off('data', onData);
        secure.unshift(bytes.subarray(at + 1));
        this.#handOver(secure);
        return;
      }
    };
    secure.on('data', onData);
  }

  #handOver(secure: TLSSocket): void {
    secure.off('close', this.#onClose);
    // It stays: without any listener an error that nobody expects would end the process.
    this.ready.resolve(secure);
  }

  #fail(error?: NodeJS.ErrnoException): void {
    const text = error ? `cannot be reached: ${error.code ?? error.message}` : 'hung up';
    this.ready.reject(
      tlsProblem(error, this.#agent, this.#handshaken) ?? says(this.#agent, text, error),
    );
  }
}

function says(agent: DialledAgent, text: string, cause?: unknown): RpcError {
  const { address, unreachable } = agent;
  return new RpcError(unreachable, `${nameOf(agent)} ${text}.`, { cause, facts: { address } });
}
