import { HostServiceDefinition } from '../gen/drover/v1/host_service.js';
import type { PeerAddress, PeerFacts, Peers } from '../mesh/peers.js';
import { asReasoned } from '../migration/errors.js';
import type { PeerCalls, PeerDirectory } from '../migration/peer.js';
import { Connection } from './connection.js';
import type { TlsFiles } from './credentials.js';
import { PeerClient } from './peer-client.js';

const ASK_LIMIT_MS = 3_000;

/**
 * Finds the agents of other hosts by the names in the configuration, and keeps one client for each.
 */
export class PeerClients implements PeerDirectory, Disposable {
  readonly #peers: Peers;
  readonly #tls: TlsFiles;
  readonly #clients = new Map<string, PeerClient>();

  constructor(peers: Peers, tls: TlsFiles) {
    this.#peers = peers;
    this.#tls = tls;
  }

  /** @throws ReasonedError `PEER_NOT_FOUND`, `SAME_HOST` */
  calls(host: string): PeerCalls {
    const peer = this.#peers.find(host);
    const client = this.#clients.get(host) ?? new PeerClient(peer, this.#tls);
    this.#clients.set(host, client);
    return client;
  }

  /**
   * Asks every peer at once whether it is there. Never throws: what is wrong is part of the answer.
   */
  async describe(): Promise<readonly PeerFacts[]> {
    return await Promise.all(this.#peers.list().map((peer) => this.#ask(peer)));
  }

  [Symbol.dispose](): void {
    for (const client of this.#clients.values()) client.close();
  }

  async #ask(peer: PeerAddress): Promise<PeerFacts> {
    const startedMs = performance.now();
    let connection: Connection | undefined;
    try {
      connection = new Connection({
        address: peer.address,
        host: peer.name,
        tls: this.#tls,
        unreachable: 'PEER_UNREACHABLE',
      });
      const client = connection.client(HostServiceDefinition, { getHost: ASK_LIMIT_MS });
      const { host } = await client.getHost({});
      return {
        ...peer,
        reachable: true,
        agentVersion: host?.agentVersion ?? '',
        problem: '',
        roundTripMs: Math.round(performance.now() - startedMs),
      };
    } catch (error) {
      const problem = asReasoned(error).message;
      return { ...peer, reachable: false, agentVersion: '', problem, roundTripMs: 0 };
    } finally {
      connection?.close();
    }
  }
}
