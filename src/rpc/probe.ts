import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { parseAddress } from '../util/address.js';
import type { Reason } from '../util/reasons.js';
import { checkAgent, contextOptions, type ExpectedAgent, type TlsMaterial } from './credentials.js';
import { RpcError } from './errors.js';
import { TLS_NAME } from './identity.js';

/*
 * gRPC says no more of a connection that failed than a sentence. This asks again by itself, because
 * a name that does not resolve, a port on which nobody listens and a certificate that does not fit
 * need different people to act.
 */

const PROBE_LIMIT_MS = 3_000;

/** An agent as it is dialled. */
export interface DialledAgent {
  /** `host:port` */
  readonly address: string;
  readonly material: TlsMaterial;
  readonly expected: ExpectedAgent;
  /** The reason for an agent that does not answer. */
  readonly unreachable: Extract<Reason, 'PEER_UNREACHABLE' | 'AGENT_UNREACHABLE'>;
}

/**
 * Finds out why an agent could not be reached. Answers an error with the reason
 * `TLS_PEER_REJECTED`, or with the agent's `unreachable`; never throws, and takes at most 3
 * seconds.
 */
export function explainFailure(agent: DialledAgent): Promise<RpcError> {
  const { address, unreachable } = agent;
  const says = (text: string, cause?: unknown) =>
    new RpcError(unreachable, `The agent at ${address} ${text}.`, { cause, facts: { address } });
  return new Promise((resolve) => {
    let secure: TLSSocket | undefined;
    let handshaken = false;
    const tcp = connectTcp(parseAddress(address));
    const finish = (error: RpcError) => {
      clearTimeout(timer);
      secure?.destroy();
      tcp.destroy();
      resolve(error);
    };
    const timer = setTimeout(
      () => finish(says(secure ? 'takes connections but is silent' : 'cannot be reached')),
      PROBE_LIMIT_MS,
    );
    const onError = (error: NodeJS.ErrnoException) =>
      finish(
        tlsProblem(error, agent, handshaken) ?? says(`cannot be reached: ${error.code}`, error),
      );
    tcp.on('error', onError);
    // Only then, because a TLS socket hides why the socket beneath it could not connect.
    tcp.on('connect', () => {
      secure = handshake(tcp, agent);
      secure.on('error', onError);
      secure.on('secureConnect', () => {
        handshaken = true;
      });
      // An agent that takes us speaks first, with its HTTP/2 settings.
      secure.on('data', () => finish(says('is there now, but the connection to it was lost')));
      secure.on('close', () => finish(tlsProblem(undefined, agent, handshaken) ?? says('hung up')));
    });
  });
}

function handshake(socket: Socket, { expected, material }: DialledAgent): TLSSocket {
  return connectTls({
    socket,
    servername: TLS_NAME,
    ALPNProtocols: ['h2'],
    checkServerIdentity: checkAgent(expected),
    rejectUnauthorized: true,
    ...contextOptions(material),
  });
}

/** The same for the agent of this machine on its unix socket. */
export function explainSocketFailure(path: string): Promise<RpcError> {
  return new Promise((resolve) => {
    const socket: Socket = connectTcp({ path });
    const finish = (what: string, cause?: unknown) => {
      socket.destroy();
      const message = `The agent cannot be reached at ${path}: ${what}.`;
      resolve(new RpcError('AGENT_UNREACHABLE', message, { cause, facts: { address: path } }));
    };
    socket.setTimeout(PROBE_LIMIT_MS, () => finish('it takes no connection'));
    socket.on('error', (error: NodeJS.ErrnoException) => finish(`${error.code}`, error));
    socket.on('connect', () => finish('it is there now, but the connection to it was lost'));
  });
}

function tlsProblem(
  error: NodeJS.ErrnoException | undefined,
  { address }: DialledAgent,
  handshaken: boolean,
): RpcError | undefined {
  const rejected = (text: string) =>
    new RpcError('TLS_PEER_REJECTED', `${text} (agent at ${address})`, {
      cause: error,
      facts: { address, ...(error?.code ? { tls_error: error.code } : {}) },
    });
  if (error instanceof RpcError) return rejected(error.message);
  // With TLS 1.3 our side has finished before the other one looks at our certificate: an agent that
  // then hangs up, with an alert or without a word, does not like it.
  if (handshaken) return rejected("The agent does not accept this side's certificate.");
  const code = error?.code;
  if (code === undefined || isSystemError(error)) return undefined;
  if (code.startsWith('ERR_SSL') || code === 'EPROTO') {
    return rejected('The agent does not speak TLS 1.3, or refused the handshake.');
  }
  // What is left are OpenSSL's names for what is wrong with a certificate, such as
  // CERT_HAS_EXPIRED.
  return rejected(`The agent's certificate is not accepted: ${code}.`);
}

/** A connection that is reset in the middle of the handshake comes without the system call. */
function isSystemError(error: NodeJS.ErrnoException | undefined): boolean {
  return error?.syscall !== undefined || error?.code === 'ECONNRESET';
}
