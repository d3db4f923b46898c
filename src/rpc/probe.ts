import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { parseAddress } from '../util/address.js';
import type { Reason } from '../util/reasons.js';
import { RpcError } from './errors.js';
import { TLS_NAME } from './identity.js';
import {
  checkAgent,
  contextOptions,
  type ExpectedAgent,
  lifeOf,
  type TlsMaterial,
} from './tls-material.js';

/*
 * gRPC says no more of a connection that failed than a sentence. This asks again by itself, because
 * a name that does not resolve, a port on which nobody listens and a certificate that does not fit
 * need different people to act.
 */

const PROBE_LIMIT_MS = 3_000;

const NOT_YOURS =
  "Call as root (or the agent's user), or use --agent HOST:PORT with a certificate.";

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
    new RpcError(unreachable, `${nameOf(agent)} ${text}.`, { cause, facts: { address } });
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
      const closed = what === 'EACCES' || what === 'EPERM';
      const options = { cause, facts: { address: path }, ...(closed ? { hint: NOT_YOURS } : {}) };
      resolve(new RpcError('AGENT_UNREACHABLE', message, options));
    };
    socket.setTimeout(PROBE_LIMIT_MS, () => finish('it takes no connection'));
    socket.on('error', (error: NodeJS.ErrnoException) => finish(`${error.code}`, error));
    socket.on('connect', () => finish('it is there now, but the connection to it was lost'));
  });
}

/**
 * What the failure of a connection says about the certificates of its two ends; undefined where it
 * says nothing about them. `handshaken`: our side of the handshake had finished.
 */
export function tlsProblem(
  error: NodeJS.ErrnoException | undefined,
  agent: DialledAgent,
  handshaken: boolean,
): RpcError | undefined {
  const { address } = agent;
  const rejected = (text: string, more: { readonly hint?: string } = {}) =>
    new RpcError('TLS_PEER_REJECTED', text, {
      cause: error,
      facts: { address, ...(error?.code ? { tls_error: error.code } : {}) },
      ...more,
    });
  if (error instanceof RpcError) return rejected(`${error.message} (agent at ${address})`);
  // With TLS 1.3 our side has finished before the other one looks at our certificate: an agent that
  // then hangs up, with an alert or without a word, does not like it.
  if (handshaken) {
    const { text, hint } = ownCertificate(agent.material);
    return rejected(`${nameOf(agent)} does not accept ${text}.`, hint ? { hint } : {});
  }
  const code = error?.code;
  if (code === undefined || isSystemError(error)) return undefined;
  if (code.startsWith('ERR_SSL') || code === 'EPROTO') {
    return rejected(`${nameOf(agent)} does not speak TLS 1.3, or refused the handshake.`);
  }
  // What is left are OpenSSL's names for what is wrong with a certificate, such as
  // CERT_HAS_EXPIRED.
  return rejected(`${nameOf(agent)} has a certificate that is not accepted: ${code}.`);
}

/** An agent as the text of an error names it. */
export function nameOf({ address, expected: { host } }: DialledAgent): string {
  return host === undefined ? `The agent at ${address}` : `The agent of ${host} (${address})`;
}

/** Our certificate as the text of an error names it, and what to do where its time is over. */
function ownCertificate(material: TlsMaterial): { readonly text: string; readonly hint?: string } {
  const { role, name } = material.identity;
  const text = `the certificate of ${role === 'host' ? 'host' : `the ${role}`} ${name}`;
  const { notAfter } = lifeOf(material);
  if (notAfter.getTime() >= Date.now()) return { text };
  return {
    text: `${text}, which has expired (${notAfter.toISOString()})`,
    hint: 'Renew it: drover pki issue, or by your CA.',
  };
}

/** A connection that is reset in the middle of the handshake comes without the system call. */
function isSystemError(error: NodeJS.ErrnoException | undefined): boolean {
  return error?.syscall !== undefined || error?.code === 'ECONNRESET';
}
