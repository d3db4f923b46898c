import { isIPv6 } from 'node:net';

/** Where an agent listens on the network, unless another port is said. */
const AGENT_PORT = 7443;

/** A host name or IP address, and a port. */
export interface Address {
  /** Without the brackets of an IPv6 address. */
  readonly host: string;
  readonly port: number;
}

const NAME = /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/;

/**
 * Reads `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; the port is `AGENT_PORT` when left out.
 * Port 0 is refused unless `anyPort` is set. Throws a RangeError that says what is allowed.
 */
export function parseAddress(text: string, options: { readonly anyPort?: boolean } = {}): Address {
  const match = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text.trim());
  const host = match?.[1] ?? match?.[2] ?? '';
  const port = match?.[3] === undefined ? AGENT_PORT : Number(match[3]);
  const known = match?.[1] === undefined ? NAME.test(host) : isIPv6(host);
  if (!known || port > 65535 || (port === 0 && !options.anyPort)) {
    throw new RangeError(
      [
        `"${text}" is not an address. Give a host name or an IP address, and a port if it is not`,
        `${AGENT_PORT}, such as "10.0.0.2:${AGENT_PORT}" or "[fd00::2]:${AGENT_PORT}".`,
      ].join(' '),
    );
  }
  return { host, port };
}

/** Writes an address as `host:port`, an IPv6 one in brackets. */
export function formatAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether the host stands for all addresses of the machine. */
export function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}
